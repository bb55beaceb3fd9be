//! Network namespaces without names: each lives as long as somebody has it open or runs in it, so
//! nothing of it can be left behind, however the test ends.

use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns, unshare};

/// Set in the process that [`with_namespaces`] starts where only a user namespace gives the right.
const INSIDE: &str = "PRISM_TEST_USER_NAMESPACE";

/// Where tools for the network are, whether or not PATH says so.
const SBIN: &str = "/usr/local/sbin:/usr/sbin:/sbin";

const TOOLS: &str = "install nftables and iproute2 (Debian, Ubuntu: `apt-get install nftables iproute2`; \
     Fedora: `dnf install nftables iproute`; Alpine: `apk add nftables iproute2`; Arch: `pacman -S nftables iproute2`)";

const DENIED: &str = "this test needs network namespaces. Run it as root, or allow them to users: \
     `sysctl -w user.max_user_namespaces=10000`, on Debian also `sysctl -w \
     kernel.unprivileged_userns_clone=1`, on Ubuntu `sysctl -w \
     kernel.apparmor_restrict_unprivileged_userns=0`; in a container: `--cap-add SYS_ADMIN --cap-add \
     NET_ADMIN --security-opt seccomp=unconfined`";

/// One stack of network devices, addresses, rules.
#[derive(Debug)]
pub struct Namespace(File);

impl Namespace {
    /// A new one, in which only loopback works.
    pub fn new() -> Result<Self, Errno> {
        // A thread of its own takes the new namespace; ours stays where it is.
        let made = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            Ok(File::open("/proc/thread-self/ns/net").expect("the kernel has /proc"))
        });
        let namespace = Self(made.join().expect("no panic")?);
        namespace.ip("link set lo up");
        Ok(namespace)
    }

    /// As an argument of `ip`, while this process lives.
    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd()).into()
    }

    /// From here on the calling thread makes its sockets and processes in this namespace.
    pub fn enter(&self) {
        setns(&self.0, CloneFlags::CLONE_NEWNET).expect("entering a namespace of one's own");
    }

    /// Runs something in this namespace.
    pub fn run<T: Send>(&self, job: impl FnOnce() -> T + Send) -> T {
        let job = || {
            self.enter();
            job()
        };
        std::thread::scope(|scope| match scope.spawn(job).join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }

    /// Commands of `ip`, one in each line.
    pub fn ip(&self, commands: &str) {
        self.tool("ip", &["-batch", "-"], commands);
    }

    /// A script for `nft`, which takes effect as a whole.
    pub fn nft(&self, script: &str) {
        self.tool("nft", &["--file", "-"], script);
    }

    /// The counters of a table, as `nft` prints them in JSON.
    pub fn nft_counters(&self, table: &str) -> String {
        let args = ["--json", "list", "counters", "table", "ip", table];
        self.tool("nft", &args, "")
    }

    fn tool(&self, program: &str, args: &[&str], input: &str) -> String {
        let output = self.run(|| {
            let mut child = Command::new(program)
                .args(args)
                .env("PATH", path())
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap_or_else(|e| panic!("cannot run `{program}` ({e}): {TOOLS}"));
            let mut stdin = child.stdin.take().expect("a pipe");
            // One that ends early says why.
            let _ = stdin.write_all(input.as_bytes());
            drop(stdin);
            child.wait_with_output().expect("its output")
        });
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "`{program}` refused:\n{input}\n{words}"
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

fn path() -> OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":");
    path.push(SBIN);
    path
}

/// Runs `body` with the right to make namespaces. Where this process does not have it, the test of
/// that name runs once more inside a user namespace, as the same user.
pub fn with_namespaces(test: &str, body: fn()) {
    let Err(denied) = Namespace::new() else {
        return body();
    };
    assert!(std::env::var_os(INSIDE).is_none(), "{denied}: {DENIED}");
    let status = Command::new("unshare")
        .args(["--user", "--map-current-user", "--keep-caps", "--"])
        .arg(std::env::current_exe().expect("a path"))
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .status()
        .unwrap_or_else(|e| panic!("cannot run `unshare` of util-linux ({e}); {DENIED}"));
    assert!(
        status.success(),
        "failed in a user namespace, see above. If it did not even begin: {DENIED}"
    );
}
