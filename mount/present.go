package mount

import (
	"context"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/lxbridge/lx/core/fuse"
	"github.com/lxbridge/lx/mount/option"
	"github.com/lxbridge/lx/mount/serve"
	"github.com/lxbridge/lx/mount/volume"
)

// arrange is how the file system of v is mounted and served.
func arrange(v volume.Volume, o *option.CIFS) (fuse.MountConfig, fuse.Config) {
	return fuse.MountConfig{
			Source: o.Source, Subtype: subtype,
			AllowOther: true, DefaultPermissions: !o.NoPerm,
			ReadOnly: o.Mount.ReadOnly,
		}, fuse.Config{
			TimeGran:  v.Features().TimeGranularity,
			Writeback: o.Cache == option.CacheLoose,
		}
}

// serving is what o asks of the layer between the volume and the kernel.
func serving(o *option.CIFS) serve.Options {
	return serve.Options{
		Cache:        map[option.Cache]serve.Cache{option.CacheStrict: serve.Strict, option.CacheNone: serve.None, option.CacheLoose: serve.Loose}[o.Cache],
		AttrTimeout:  timeout(o.ACRegMax),
		EntryTimeout: timeout(o.ACDirMax),
		LocalLocks:   true,
	}
}

// timeout is d where 0 means the default.
func timeout(d time.Duration) time.Duration {
	if d == 0 {
		return -1
	}
	return d
}

// presentCIFS is the presenter of shares.
func presentCIFS(v volume.Volume, o *option.CIFS, show func(*volume.Attr), note func(error)) fileSystem {
	options := serving(o)
	options.Present, options.Note = show, note
	fs := serve.New(v, options)
	if !o.NoDelete && !o.NoStrictSync {
		return fs
	}
	return limited{fs, o.NoDelete, o.NoStrictSync}
}

// limited is a file system that does less than it could.
type limited struct {
	*serve.FS
	noDelete  bool // no name can be removed
	quickSync bool // fsync(2) does not wait for the server's disk
}

func (l limited) Unlink(ctx context.Context, parent uint64, name string) syscall.Errno {
	if l.noDelete {
		return syscall.EACCES
	}
	return l.FS.Unlink(ctx, parent, name)
}

func (l limited) Rmdir(ctx context.Context, parent uint64, name string) syscall.Errno {
	if l.noDelete {
		return syscall.EACCES
	}
	return l.FS.Rmdir(ctx, parent, name)
}

func (l limited) Fsync(ctx context.Context, node, fh uint64, dataOnly bool) syscall.Errno {
	if l.quickSync {
		return l.FS.Flush(ctx, node, fh, 0) // nobody who locks is 0
	}
	return l.FS.Fsync(ctx, node, fh, dataOnly)
}

// outside shows owners as the host sees them, in the numbers of the user
// namespace above ours.
func outside() (func(*volume.Attr), error) {
	var maps [2]string
	for i, name := range []string{"uid_map", "gid_map"} {
		text, err := os.ReadFile("/proc/self/" + name)
		if err != nil {
			return nil, fmt.Errorf("cannot read how ids are mapped: %w", err)
		}
		maps[i] = string(text)
	}
	return func(a *volume.Attr) {
		if id, ok := translate(maps[0], a.UID); ok {
			a.UID = id
		}
		if id, ok := translate(maps[1], a.GID); ok {
			a.GID = id
		}
	}, nil
}
