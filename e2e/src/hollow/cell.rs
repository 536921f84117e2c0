//! A file system of its own for a process: the machine's programs, and of the rest only what its pod mounts.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result};
use tokio::process::{Child, Command};

/// What a process finds where.
#[derive(Clone, Debug, Default)]
pub(super) struct Cell {
    /// Folder that its root is mounted at.
    pub root: PathBuf,
    /// Where a folder of this machine is found in it.
    pub mounts: Vec<(PathBuf, String)>,
    /// Folder with a file of host names for each namespace, and which of these is its own.
    pub hosts: (PathBuf, String),
}

impl Cell {
    /// Starts a program in it. It ends with the thread that started it.
    pub(super) fn spawn(
        &self,
        program: &Path,
        args: &[String],
        env: impl IntoIterator<Item = (String, String)>,
        log: &Path,
    ) -> Result<Child> {
        std::fs::create_dir_all(&self.root)?;
        let output = std::fs::OpenOptions::new().create(true).append(true).open(log)?;
        let errors = output.try_clone()?;
        let name = program.file_name().context("a program has a name")?;
        Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-euc"])
            .arg(self.script(program))
            .arg(name)
            .args(args)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .envs(env)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .kill_on_drop(true)
            .spawn()
            .context("start a process with a file system of its own")
    }

    fn script(&self, program: &Path) -> String {
        let root = quoted(&self.root.display().to_string());
        let mut script = format!(
            "mount -t tmpfs none {root}; cd {root}; mkdir usr etc tmp dev proc hosts program; \
             for folder in bin sbin lib lib64; do if [ -L /$folder ]; then cp -P /$folder .; \
             elif [ -d /$folder ]; then mkdir $folder; mount --rbind /$folder $folder; fi; done; \
             mount --rbind /usr usr; mount --rbind /dev dev; mount --rbind /proc proc; \
             if [ -d /etc/ssl ]; then mkdir etc/ssl; mount --rbind /etc/ssl etc/ssl; fi; \
             echo 'hosts: files' >etc/nsswitch.conf; "
        );
        let mut bind = |from: &Path, to: &str| {
            let (from, to) = (quoted(&from.display().to_string()), quoted(to.trim_start_matches('/')));
            let _ = write!(script, "mkdir -p {to}; mount --bind {from} {to}; ");
        };
        bind(&self.hosts.0, "/hosts");
        bind(program.parent().unwrap_or(Path::new("/")), "/program");
        for (from, to) in &self.mounts {
            bind(from, to);
        }
        let hosts = quoted(&format!("/hosts/{}", self.hosts.1));
        let _ = write!(
            script,
            "ln -s {hosts} etc/hosts; exec setpriv --pdeathsig KILL chroot {root} \"/program/$0\" \"$@\""
        );
        script
    }
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}
