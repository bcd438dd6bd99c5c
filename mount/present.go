package mount

import (
	"context"

	"github.com/lxbridge/lx/core/fuse"
	"github.com/lxbridge/lx/mount/option"
	"github.com/lxbridge/lx/mount/volume"
)

// arrange is how the file system of v is mounted and served.
func arrange(v volume.Volume, o *option.CIFS) (fuse.MountConfig, fuse.Config) {
	return fuse.MountConfig{
		Source: o.Source, Subtype: subtype,
		AllowOther: true, DefaultPermissions: !o.NoPerm,
		ReadOnly: o.Mount.ReadOnly,
	}, fuse.Config{}
}

type undone struct{ fuse.FileSystem }

func (undone) Drain(context.Context) error { return nil }

func newFileSystem(volume.Volume, *option.CIFS) fileSystem { return undone{fuse.Dead} }
