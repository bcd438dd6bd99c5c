package mount

import (
	"context"
	"slices"
	"syscall"

	"github.com/lxbridge/lx/core/fuse"
	"github.com/lxbridge/lx/mount/option"
	"github.com/lxbridge/lx/mount/volume"
)

// driver is a type of file system that lx serves. Its functions get the options
// that its own made.
type driver struct {
	// options are the defaults of a mount of type fsType.
	options func(fsType string) option.Options
	// split takes the data of mount(2) apart.
	split func(data string) ([]option.Param, error)
	// connect makes the volume that o describes, for the thread of n; log is
	// told of what goes wrong later, and nil when the server answers again.
	connect func(ctx context.Context, n *network, o option.Options, log func(error)) (volume.Volume, error)
	// arrange is how the file system of v is mounted and served.
	arrange func(v volume.Volume, o option.Options) (fuse.MountConfig, fuse.Config)
	// present makes v ready for the kernel. show, unless nil, changes attributes
	// on their way; note is told of failures that no caller sees.
	present func(v volume.Volume, o option.Options, show func(*volume.Attr), note func(error)) fileSystem
	// note is what people should know of v; nil where there never is anything.
	note func(v volume.Volume, o option.Options) string
}

// drivers are the types that lx serves.
var drivers = map[string]*driver{
	"cifs": &cifsDriver, "smb3": &cifsDriver,
	"nfs": &nfsDriver, "nfs4": &nfsDriver,
}

// refused are the types that are recognised, and refused until lx serves them.
var refused = []string{"sshfs", "fuse.sshfs"}

// ours says whether a type is not the kernel's business. The driver is nil
// where it is refused.
func (b *Broker) ours(fsType string) (*driver, bool) {
	d := b.drivers[fsType]
	return d, d != nil || slices.Contains(refused, fsType)
}

// errUnsupported is the refusal of a type that lx does not serve yet.
func errUnsupported(fsType string) error {
	return &option.Error{Reason: "file systems of type " + fsType + " are not supported yet", Errno: syscall.EOPNOTSUPP}
}

// hasDescriptor says whether a FUSE program made the mount by itself.
func hasDescriptor(params []option.Param) bool {
	return slices.ContainsFunc(params, func(p option.Param) bool { return p.Name == "fd" && p.Has })
}
