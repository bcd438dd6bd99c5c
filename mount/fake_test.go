package mount

import (
	"context"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/lxbridge/lx/core/fuse"
	"github.com/lxbridge/lx/mount/memvol"
	"github.com/lxbridge/lx/mount/nfs"
	"github.com/lxbridge/lx/mount/option"
	"github.com/lxbridge/lx/mount/serve"
	"github.com/lxbridge/lx/mount/volume"
)

// server is a fake of all that lies behind a mount.
type server struct {
	dial    func(ctx context.Context, o *option.CIFS) error
	dials   atomic.Int32
	closed  atomic.Int32
	drained atomic.Int32
	told    atomic.Int32 // how often who can tell the kernel
	last    atomic.Pointer[option.CIFS]
	lastNFS atomic.Pointer[option.NFS]
}

// fake makes w connect to a fake server.
func (w *world) fake(t *testing.T) *server {
	t.Helper()
	s := &server{dial: func(context.Context, *option.CIFS) error { return nil }}
	fake := cifsDriver
	fake.connect = func(ctx context.Context, _ *network, of option.Options, _ func(error)) (volume.Volume, error) {
		o := of.(*option.CIFS)
		s.dials.Add(1)
		s.last.Store(o)
		if err := s.dial(ctx, o); err != nil {
			return nil, err
		}
		return fakeVolume{memvol.New(memvol.Options{}), s}, nil
	}
	fake.present = func(volume.Volume, option.Options, func(*volume.Attr), func(error)) fileSystem { return files{s} }
	fakeNFS := nfsDriver
	fakeNFS.connect = func(_ context.Context, n *network, of option.Options, _ func(error)) (volume.Volume, error) {
		o := of.(*option.NFS)
		s.dials.Add(1)
		s.lastNFS.Store(o)
		w, err := newOwners(n.thread, o)
		if err != nil {
			return nil, err
		}
		versions := nfs.Versions(o.Vers)
		return &nfsVolume{fakeVolume{memvol.New(memvol.Options{}), s}, versions[0], w}, nil
	}
	fakeNFS.present = fake.present
	w.drivers = map[string]*driver{"cifs": &fake, "nfs": &fakeNFS, "nfs4": &fakeNFS}
	return s
}

type fakeVolume struct {
	volume.Volume
	server *server
}

func (v fakeVolume) Close() error {
	v.server.closed.Add(1)
	return v.Volume.Close()
}

// files is a directory with nothing in it. Asking for "hang" waits until the
// request is given up.
type files struct{ server *server }

func (files) Lookup(ctx context.Context, _ uint64, name string) (fuse.Entry, syscall.Errno) {
	if name == "hang" {
		<-ctx.Done()
		return fuse.Entry{}, syscall.EINTR
	}
	return fuse.Entry{}, syscall.ENOENT
}

func (files) Forget(uint64, uint64) {}

func (files) Getattr(context.Context, uint64, uint64, bool) (fuse.Attr, time.Duration, syscall.Errno) {
	return fuse.Attr{Ino: 1, Mode: syscall.S_IFDIR | 0o755, Nlink: 2}, time.Second, 0
}

func (f files) Drain(context.Context) error {
	f.server.drained.Add(1)
	return nil
}

func (f files) SetNotifier(serve.Notifier) { f.server.told.Add(1) }

var errPassword = &volume.Error{Op: "log in to", Name: "//nas/photos", Errno: syscall.EACCES, Reason: "the password is wrong"}
