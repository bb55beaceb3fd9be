-- The application's own table, the same in every region. Prism adds its tables with `prism migrate`.
PRAGMA journal_mode = WAL;
CREATE TABLE users (
    username TEXT PRIMARY KEY,
    name     TEXT NOT NULL,
    kills    INTEGER NOT NULL DEFAULT 0
);
INSERT INTO users (username, name) VALUES ('steve', 'Steve');
