package serve

import (
	"context"
	"fmt"
	"syscall"

	"github.com/lxbridge/lx/mount/volume"
)

// fuseWriteKill marks a write that takes set-user-id bits away
// (FUSE_WRITE_KILL_SUIDGID). They are ours to clear where the kernel was promised
// so (fuse.Config.HandleKillpriv); without that it asks for the attribute
// security.capability before each write.
const fuseWriteKill = 1 << 2

// privileges are the bits of a mode that a write or chown(2) takes away.
func privileges(mode uint32) uint32 {
	const group = syscall.S_ISGID | syscall.S_IXGRP
	bits := mode & syscall.S_ISUID
	if mode&group == group {
		bits |= syscall.S_ISGID
	}
	return bits
}

// privileged says that i has such bits, for all that is known.
func (i *inode) privileged() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.typ == syscall.S_IFREG && privileges(i.attr.Mode) != 0
}

// killPrivileges clears what a change has left of these bits: servers do that
// themselves, but not for their own root. h may be nil; a is what i is like after
// the change.
func (f *FS) killPrivileges(ctx context.Context, i *inode, h volume.Handle, a volume.Attr) volume.Attr {
	bits := privileges(a.Mode)
	if bits == 0 || i.typ != syscall.S_IFREG {
		return a
	}
	mode := a.Mode &^ bits & 0o7777
	s := volume.SetAttr{Mode: &mode}
	after, err := f.vol.Setattr(ctx, i.node, h, s)
	if err != nil { // the change itself is done
		f.opts.Note(fmt.Errorf("cannot clear the set-user-id bits of %s: %w", f.nameOf(i), err))
		return a
	}
	i.set(after, s)
	return after
}

// writePrivileged writes to a file that loses its privileges by that.
func (fl *file) writePrivileged(ctx context.Context, off int64, data []byte) (int, syscall.Errno) {
	n, no := fl.writeThrough(ctx, off, data)
	if no != 0 {
		return n, no
	}
	a, err := fl.fs.refresh(ctx, fl.ino)
	if err != nil {
		fl.fs.opts.Note(fmt.Errorf("cannot see whether %s has set-user-id bits: %w", fl.fs.nameOf(fl.ino), err))
		fl.ino.doubt()
		return n, 0
	}
	fl.fs.killPrivileges(ctx, fl.ino, nil, a)
	return n, 0
}
