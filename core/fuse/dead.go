package fuse

import (
	"context"
	"syscall"
	"time"
)

// Dead is the file system of a mount whose server died: everything answers EIO
// and what is forgotten or released is ignored. A Server of Dead that Resumes the
// dead one's connection frees all who wait, and lets the mount be unmounted.
var Dead FileSystem = dead{}

type dead struct{}

func (dead) Lookup(context.Context, uint64, string) (Entry, syscall.Errno) {
	return Entry{}, syscall.EIO
}

func (dead) Forget(uint64, uint64) {}

func (dead) Getattr(context.Context, uint64, uint64, bool) (Attr, time.Duration, syscall.Errno) {
	return Attr{}, 0, syscall.EIO
}
