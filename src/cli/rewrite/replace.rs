//! Replaces files, all or none.
//!
//! Each new text is written next to its file first. When all of them are on disk, they are renamed over the files. The old files
//! are removed after the last rename: until then each has a second name, so that a failure restores the renamed files. A process
//! that is killed between two renames leaves complete files, old or new, and next to them names that end in `.harbor-pilot-new`
//! or `.harbor-pilot-old`.

use std::{
    collections::BTreeSet,
    fs::{File, OpenOptions, Permissions},
    io::Write,
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail, ensure};
use tokio_util::sync::CancellationToken;

const NEW: &str = "harbor-pilot-new";
const OLD: &str = "harbor-pilot-old";
const ANY_WRITE: u32 = 0o222;

/// A file and its new text.
pub(super) struct FileChange<'c> {
    pub(super) file: &'c Path,
    /// The text that was read.
    pub(super) old: &'c str,
    pub(super) new: &'c str,
}

/// A file and its new text, which is written next to it.
struct Staged {
    /// The file itself: the target of a symbolic link.
    target: PathBuf,
    new: PathBuf,
    old: PathBuf,
    renamed: bool,
}

/// Writes all files or none. Symbolic links remain, and their targets are written. Mode and owner remain. Other hard links of a
/// file keep the old text.
///
/// # Errors
/// If a file cannot be written or was changed since it was read, or `stop` was cancelled before the first rename: then no file is
/// changed.
pub(super) fn replace_all(files: &[FileChange<'_>], stop: &CancellationToken) -> anyhow::Result<()> {
    replace_by(files, stop, swap_all)
}

fn replace_by(
    files: &[FileChange<'_>],
    stop: &CancellationToken,
    swap: impl FnOnce(&mut [Staged]) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut staged = Vec::with_capacity(files.len());
    let done = stage_all(files, stop, &mut staged).and_then(|()| swap(&mut staged));
    let undone = if done.is_err() { restore(&staged) } else { Ok(()) };
    for Staged { new, old, .. } in &staged {
        // Each exists only after a failure, or, for the old files, until now.
        std::fs::remove_file(new).ok();
        if undone.is_ok() {
            std::fs::remove_file(old).ok();
        }
    }
    undone?;
    done
}

/// Files that a killed run left next to these files.
pub(super) fn leftovers<'f>(files: impl Iterator<Item = &'f Path>) -> Vec<PathBuf> {
    let targets = files.filter_map(|file| file.canonicalize().ok());
    let directories: BTreeSet<PathBuf> = targets.filter_map(|file| Some(file.parent()?.to_owned())).collect();
    let entries = directories.iter().filter_map(|directory| std::fs::read_dir(directory).ok()).flatten();
    let is_ours = |path: &PathBuf| path.extension().is_some_and(|ending| ending == NEW || ending == OLD);
    entries.filter_map(|entry| Some(entry.ok()?.path())).filter(is_ours).collect()
}

fn stage_all(files: &[FileChange<'_>], stop: &CancellationToken, staged: &mut Vec<Staged>) -> anyhow::Result<()> {
    let mut targets: Vec<(PathBuf, &FileChange<'_>)> = Vec::with_capacity(files.len());
    for change @ FileChange { file, new, .. } in files {
        let target = file.canonicalize().with_context(|| file.display().to_string())?;
        let metadata = target.metadata().with_context(|| file.display().to_string())?;
        ensure!(metadata.is_file(), "{}: not a regular file", file.display());
        ensure!(
            metadata.permissions().mode() & ANY_WRITE != 0,
            "{}: the file is read-only, so no file was written: make it writable (chmod u+w), or remove it from the command line",
            file.display()
        );
        match targets.iter().find(|(known, _)| *known == target) {
            Some((_, known)) if known.new == *new => {}
            Some(_) => bail!("{}: another path of the same file would get another text", file.display()),
            None => targets.push((target, change)),
        }
    }
    // In containers the process ids are often the same, so the name is random and not that of a killed process.
    let run = crate::jitter::number();
    for (target, change) in &targets {
        let target = target.clone();
        ensure!(!stop.is_cancelled(), "stopped before any file was written");
        let (new, old) = (temporary_path(&target, run, NEW), temporary_path(&target, run, OLD));
        staged.push(Staged { target, new, old, renamed: false });
        if let Some(staged) = staged.last() {
            stage(staged, change.new).with_context(|| staged.target.display().to_string())?;
        }
    }
    for (target, FileChange { file, old, .. }) in &targets {
        let now = std::fs::read(target).with_context(|| file.display().to_string())?;
        ensure!(
            now == old.as_bytes(),
            "{}: the file was changed after it was read, so no file was written: run the command again",
            file.display()
        );
    }
    ensure!(!stop.is_cancelled(), "stopped before any file was written");
    Ok(())
}

/// Writes the new text next to the file. Other users cannot read it until it has the mode and owner of the file.
fn stage(staged: &Staged, text: &str) -> anyhow::Result<()> {
    let metadata = staged.target.metadata()?;
    let mut file = create(&staged.new)?;
    file.write_all(text.as_bytes())?;
    let own = file.metadata()?;
    if (own.uid(), own.gid()) != (metadata.uid(), metadata.gid()) {
        std::os::unix::fs::fchown(&file, Some(metadata.uid()), Some(metadata.gid()))
            .context("the file belongs to another user, and its owner cannot be set on the new file")?;
    }
    file.set_permissions(Permissions::from_mode(metadata.permissions().mode() & 0o7777))?;
    file.sync_all()?;
    Ok(std::fs::hard_link(&staged.target, &staged.old)?)
}

/// Creates a file that other users cannot read.
fn create(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

fn swap_all(staged: &mut [Staged]) -> anyhow::Result<()> {
    for each in &mut *staged {
        std::fs::rename(&each.new, &each.target).with_context(|| each.target.display().to_string())?;
        each.renamed = true;
    }
    for each in &*staged {
        // A rename is durable when its directory is on disk. File systems without that operation are accepted.
        if let Some(directory) = each.target.parent() {
            File::open(directory).and_then(|directory| directory.sync_all()).ok();
        }
    }
    Ok(())
}

fn restore(staged: &[Staged]) -> anyhow::Result<()> {
    let mut failed = Vec::new();
    for each in staged.iter().filter(|each| each.renamed) {
        if let Err(error) = std::fs::rename(&each.old, &each.target) {
            failed.push(format!("{} (the old content is in {}): {error}", each.target.display(), each.old.display()));
        }
    }
    ensure!(failed.is_empty(), "files that could not be restored: {}", failed.join("; "));
    Ok(())
}

/// A temporary name of this run, in the same directory.
fn temporary_path(target: &Path, run: u64, ending: &str) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(target.file_name().unwrap_or_default());
    name.push(format!(".{run:016x}.{ending}"));
    target.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(directory.path().join(name), text).unwrap();
        }
        directory
    }

    fn replace(directory: &tempfile::TempDir, files: &[(&str, &str)]) -> anyhow::Result<()> {
        let paths: Vec<PathBuf> = files.iter().map(|(name, _)| directory.path().join(name)).collect();
        let old: Vec<String> = paths.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect();
        let all = paths.iter().zip(&old).zip(files);
        let all: Vec<_> = all.map(|((file, old), (_, new))| FileChange { file, old, new }).collect();
        replace_all(&all, &CancellationToken::new())
    }

    /// The directory's content, by name.
    fn content(directory: &tempfile::TempDir) -> Vec<(String, String)> {
        let entries = std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().path());
        let read = |path: PathBuf| {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, std::fs::read_to_string(path).unwrap_or_default())
        };
        let mut all: Vec<_> = entries.map(read).collect();
        all.sort();
        all
    }

    fn pairs(files: &[(&str, &str)]) -> Vec<(String, String)> {
        files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
    }

    #[test]
    fn replace_all_writes_each_file_and_leaves_nothing_beside_it() {
        let here = directory(&[("a", "1"), ("b", "2")]);
        replace(&here, &[("a", "one"), ("b", "two")]).unwrap();
        assert_eq!(content(&here), pairs(&[("a", "one"), ("b", "two")]));
    }

    #[test]
    fn replace_all_keeps_mode_and_link() {
        let here = directory(&[("a", "1")]);
        let path = here.path().join("a");
        std::fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink("a", here.path().join("link")).unwrap();
        replace(&here, &[("link", "one")]).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, 0o640);
        assert!(here.path().join("link").symlink_metadata().unwrap().is_symlink());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one");
    }

    #[test]
    fn replace_all_writes_none_where_one_is_read_only() {
        let here = directory(&[("a", "1"), ("b", "2")]);
        std::fs::set_permissions(here.path().join("b"), Permissions::from_mode(0o444)).unwrap();
        let error = replace(&here, &[("a", "one"), ("b", "two")]).unwrap_err();
        assert!(format!("{error:#}").contains("read-only"), "{error:#}");
        assert_eq!(content(&here), pairs(&[("a", "1"), ("b", "2")]));
    }

    #[test]
    fn replace_all_puts_back_what_was_renamed_when_a_later_rename_fails() {
        let here = directory(&[("a", "1"), ("b", "2")]);
        let paths = ["a", "b"].map(|name| here.path().join(name));
        let files: Vec<_> =
            paths.iter().zip(["1", "2"]).map(|(file, old)| FileChange { file, old, new: "new" }).collect();
        let swap = |staged: &mut [Staged]| {
            std::fs::remove_file(&staged[1].new)?;
            let failed = swap_all(staged);
            assert_eq!(std::fs::read_to_string(&paths[0])?, "new");
            failed
        };
        assert!(replace_by(&files, &CancellationToken::new(), swap).is_err());
        assert_eq!(content(&here), pairs(&[("a", "1"), ("b", "2")]));
    }

    #[test]
    fn replace_all_creates_files_that_no_other_account_can_read() {
        let here = directory(&[]);
        let file = create(&here.path().join("new")).unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o077, 0);
    }

    #[test]
    fn replace_all_keeps_the_owner_or_writes_nothing() {
        let here = directory(&[("a", "1")]);
        let path = here.path().join("a");
        // Only root can change the owner of a file.
        if std::os::unix::fs::chown(&path, Some(12_345), Some(12_346)).is_err() {
            return;
        }
        replace(&here, &[("a", "one")]).unwrap();
        let metadata = path.metadata().unwrap();
        assert_eq!((metadata.uid(), metadata.gid()), (12_345, 12_346));
    }

    #[test]
    fn replace_all_writes_none_where_one_has_another_text_than_was_read() {
        let here = directory(&[("a", "1"), ("b", "edited")]);
        let paths = ["a", "b"].map(|name| here.path().join(name));
        let files: Vec<_> =
            paths.iter().zip(["1", "2"]).map(|(file, old)| FileChange { file, old, new: "new" }).collect();
        let error = replace_all(&files, &CancellationToken::new()).unwrap_err();
        assert!(error.to_string().contains("was changed after it was read"), "{error:#}");
        assert_eq!(content(&here), pairs(&[("a", "1"), ("b", "edited")]));
    }

    #[test]
    fn replace_all_does_nothing_after_it_was_stopped() {
        let here = directory(&[("a", "1")]);
        let path = here.path().join("a");
        let stop = CancellationToken::new();
        stop.cancel();
        assert!(replace_all(&[FileChange { file: &path, old: "1", new: "new" }], &stop).is_err());
        assert_eq!(content(&here), pairs(&[("a", "1")]));
    }
}
