//! A standby of a throwaway server, and failing over to it.

use super::{Cluster, ClusterError};

impl Cluster {
    /// Starts a streaming standby of this server, asynchronous as a standby usually is. Stop it
    /// ([`stop`](Self::stop)) to have it fall behind.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub fn standby(&self) -> Result<Self, ClusterError> {
        let mut standby = Self::empty(self.options.clone(), self.password.clone())?;
        let program = "pg_basebackup";
        let output = standby
            .command(&self.programs.join(program))
            .args(["--write-recovery-conf", "--wal-method=stream", "--no-sync"])
            .args(["--checkpoint=fast", "--pgdata"])
            .arg(standby.data())
            .arg("--dbname")
            .arg(self.admin_url("postgres"))
            .output()
            .map_err(|e| ClusterError::Io("cannot run pg_basebackup", e))?;
        if !output.status.success() {
            return Err(ClusterError::Failed {
                program,
                detail: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            });
        }
        standby.first_start()?;
        Ok(standby)
    }

    /// Fails over: `primary` dies as in a power loss, and this standby, with what it has, serves at
    /// its address.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub fn take_over(&mut self, primary: &mut Self) -> Result<(), ClusterError> {
        primary.kill9();
        self.stop();
        self.port = primary.port;
        self.restart()?;
        self.admin("postgres")?
            .batch_execute("SELECT pg_promote()")?;
        Ok(())
    }
}
