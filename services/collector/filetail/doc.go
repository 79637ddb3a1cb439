// Package filetail follows JSON access logs, one object per line, as Envoy's
// file access logger writes them.
//
// In: files by path or glob, while they are written, renamed, copied and
// truncated. Out: calls, given to the publisher, and a checkpoint that says how
// far each file has been acknowledged by the log. Lines that are not calls go
// to a bounded file beside the checkpoint, with their place and the reason.
//
// A file is known by its inode and by a fingerprint of its first line, so it is
// found again under another name, and a copy of it is read on from where the
// original was left. After a crash reading goes on from the checkpoint: lines
// acknowledged since are read twice, and get the same identity twice, so the
// pipelines drop the copies. Nothing is lost as long as the files, or those
// they were renamed or copied to in the same folder, are still there.
//
// A call's identity is the node, stream id and start as for every other way an
// Envoy reports; a line without an id is identified by the file's fingerprint
// and the line's offset.
package filetail
