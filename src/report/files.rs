//! `--report DIR`: what a run leaves for others. JSON lines and a log per host are written as things happen, so that a
//! killed run leaves what was done; the JUnit file is made of the JSON lines at the end. All are readable by their owner only.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::json::{Json, Line, line_of};
use super::log::Logs;
use super::{Event, Recap, Reporter, junit};
use crate::diag::Diagnostic;

/// The JSON lines of a run that is over.
pub const LINES: &str = "report.jsonl";
/// The JSON lines of a run that is not, or was killed.
pub const PARTIAL: &str = "report.jsonl.part";
/// The JUnit file.
pub const JUNIT: &str = "junit.xml";
const HOSTS: &str = "hosts";

/// Writes the files of `--report`.
pub struct Files {
    folder: PathBuf,
    lines: Option<Json<File>>,
    logs: Logs,
    /// Said once; a full disk must not stop changes half-way.
    broken: bool,
}

impl Files {
    /// Takes the folder: makes it, or takes away what an earlier run left in it.
    ///
    /// # Errors
    /// When it can't be made, or holds something else.
    pub fn begin(folder: &Path) -> Result<Files, Diagnostic> {
        let wrong =
            |error: io::Error| Diagnostic::error(format!("can't write the report to {}: {error}", folder.display()));
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(wrong)?;
        let ours = [LINES, PARTIAL].iter().any(|name| folder.join(name).exists());
        if !ours && fs::read_dir(folder).map_err(wrong)?.next().is_some() {
            let error = format!("can't write the report to {}: it holds other things", folder.display());
            return Err(Diagnostic::error(error).help("name a new folder, or one that holds an earlier report"));
        }
        let hosts = folder.join(HOSTS);
        for name in [LINES, PARTIAL, JUNIT] {
            gone(fs::remove_file(folder.join(name))).map_err(wrong)?;
        }
        if hosts.exists() {
            for entry in fs::read_dir(&hosts).map_err(wrong)? {
                let path = entry.map_err(wrong)?.path();
                if path.extension().is_some_and(|extension| extension == "log") {
                    fs::remove_file(path).map_err(wrong)?;
                }
            }
        }
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&hosts).map_err(wrong)?;
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).map_err(wrong)?;
        let lines = open(&folder.join(PARTIAL), false).map_err(wrong)?;
        let folder = folder.to_path_buf();
        Ok(Files { folder, lines: Some(Json::new(lines)), logs: Logs::new(hosts), broken: false })
    }

    fn check(&mut self, result: io::Result<()>) {
        if let Err(error) = result
            && !std::mem::replace(&mut self.broken, true)
        {
            eprintln!("warning: the report in {} is not whole: {error}", self.folder.display());
        }
    }

    fn line(&mut self, line: &Line) -> io::Result<()> {
        let lines = match &mut self.lines {
            Some(lines) => lines,
            // After the recap of a plan comes its apply (`--ask`): that is what the report is about then.
            none => {
                let lines = none.insert(Json::new(open(&self.folder.join(PARTIAL), false)?));
                for name in [LINES, JUNIT] {
                    gone(fs::remove_file(self.folder.join(name)))?;
                }
                lines
            }
        };
        lines.line(line)
    }

    fn finish(&mut self, recap: &Recap) -> io::Result<()> {
        self.line(&Line::Recap(recap.into()))?;
        let Some(lines) = self.lines.take() else { return Ok(()) };
        lines.into_inner().sync_all()?;
        let partial = self.folder.join(PARTIAL);
        junit::write(&[&partial], &self.folder.join(JUNIT))?;
        fs::rename(&partial, self.folder.join(LINES))?;
        File::open(&self.folder)?.sync_all()
    }
}

impl Reporter for Files {
    fn event(&mut self, event: &Event) {
        if let Some(line) = line_of(event) {
            let written = self.line(&line);
            self.check(written);
        }
        let written = self.logs.event(event);
        self.check(written);
    }

    fn recap(&mut self, recap: &Recap) {
        let written = self.finish(recap);
        self.check(written);
        let written = self.logs.recap(recap);
        self.check(written);
    }
}

fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// A file of a report, new or gone on with. A link that somebody put there is not followed.
pub(super) fn open(path: &Path, append: bool) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.mode(0o600).custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed());
    match append {
        true => options.append(true).create(true),
        false => options.write(true).create(true).truncate(true),
    };
    let file = options.open(path)?;
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    Ok(file)
}

/// Writes a file as a whole: the old one or the new one, never half.
pub(super) fn replace(path: &Path, write: impl FnOnce(&mut dyn io::Write) -> io::Result<()>) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.part", std::process::id()));
    let temporary = path.with_file_name(name);
    let result = (|| {
        let mut file = io::BufWriter::new(open(&temporary, false)?);
        write(&mut file)?;
        file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        fs::rename(&temporary, path)
    })();
    if result.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    result
}
