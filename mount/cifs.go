package mount

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"

	"github.com/lxbridge/lx/core/fuse"
	"github.com/lxbridge/lx/core/guest"
	"github.com/lxbridge/lx/mount/option"
	"github.com/lxbridge/lx/mount/serve"
	"github.com/lxbridge/lx/mount/smb"
	"github.com/lxbridge/lx/mount/volume"
)

var cifsDriver = driver{
	options: func(fsType string) option.Options { return option.NewCIFS(fsType) },
	split:   option.Split,
	connect: connectCIFS,
	arrange: arrangeCIFS,
	present: presentCIFS,
}

// complete reads the credentials file and takes from the caller what the
// options leave open: the owner of files.
func complete(ctx context.Context, t guest.Thread, o *option.CIFS) error {
	var file option.Login
	if o.Credentials != "" {
		text, err := t.ReadFile(ctx, o.Credentials, option.MaxCredentials)
		if err != nil {
			return fmt.Errorf("credentials: %w", err)
		}
		if file, err = option.ParseCredentials(text); err != nil {
			return err
		}
	}
	if err := o.Ready(file); err != nil {
		return err
	}
	ids, err := t.IDs()
	if err != nil {
		return err
	}
	o.UID, err = owner(t, "uid", o.UID, o.HasUID, ids.UID)
	if err != nil {
		return err
	}
	if o.GID, err = owner(t, "gid", o.GID, o.HasGID, ids.GID); err != nil {
		return err
	}
	maps, err := hostIDs()
	o.NoPerm = o.NoPerm || !o.Perm && modesIdle(maps.uid, o)
	return err
}

// modesIdle says that the kernel need not check modes: inside there is one user,
// who then owns all files, and no mode refuses an owner anything, nor root to run a
// file. To check them costs a question after each change of a directory.
func modesIdle(uid idMap, o *option.CIFS) bool {
	return uid.single() && o.FileMode&0o700 == 0o700 && o.DirMode&0o700 == 0o700
}

// owner is an id of an option in the numbers of our own user namespace, or
// else the caller's own.
func owner(t guest.Thread, what string, id uint32, given bool, own uint32) (uint32, error) {
	if !given {
		return own, nil
	}
	text, err := os.ReadFile("/proc/" + strconv.Itoa(t.TID) + "/" + what + "_map")
	if err != nil {
		return 0, fmt.Errorf("cannot read the caller's ids: %w", err)
	}
	if id, ok := parseIDMap(string(text)).out(id); ok {
		return id, nil
	}
	return 0, &option.Error{Name: what, Reason: fmt.Sprintf("%d is no id of the caller's user namespace", id), Errno: syscall.EINVAL}
}

// dialects are the versions that vers= stands for (mount.cifs(8)).
var dialects = map[string][]smb.Dialect{
	"default": {smb.SMB311, smb.SMB302, smb.SMB300, smb.SMB210},
	"3":       {smb.SMB311, smb.SMB302, smb.SMB300},
	"3.1.1":   {smb.SMB311}, "3.02": {smb.SMB302}, "3.0": {smb.SMB300}, "2.1": {smb.SMB210}, "2.0": {smb.SMB202},
}

var mapChars = map[option.MapChars]smb.MapChars{option.MapPosix: smb.MapPosix, option.MapSFU: smb.MapSFU, option.MapNone: smb.MapNone}

// smbConfig is what o asks of the connection.
func smbConfig(o *option.CIFS) smb.Config {
	c := smb.Config{
		Server: o.Server, Port: int(o.Port), Share: o.Share, Prefix: o.Prefix,
		User: o.User, Domain: o.Domain, Password: smb.Secret(o.Password), Workstation: o.Workstation,
		Sec: smb.Sec(o.Sec), Dialects: dialects[o.Vers], Sign: o.Sign, Seal: o.Seal,
		MapChars: mapChars[o.MapChars], NoCase: o.NoCase, MFSymlinks: o.MFSymlinks,
		UID: o.UID, GID: o.GID, FileMode: o.FileMode, DirMode: o.DirMode,
		MaxRead: int(o.RSize), MaxWrite: int(o.WSize),
		EchoInterval: o.EchoInterval, Hard: o.Hard,
	}
	if o.Address.IsValid() {
		c.Address = o.Address.String()
	}
	return c
}

func connectCIFS(ctx context.Context, n *network, of option.Options, log func(error)) (volume.Volume, error) {
	o := of.(*option.CIFS)
	if err := complete(ctx, n.thread, o); err != nil {
		return nil, err
	}
	c := smbConfig(o)
	c.Log, c.Dial = log, n.dial
	v, err := smb.Dial(ctx, c)
	if o.Password2 != "" && errors.Is(err, syscall.EACCES) {
		c.Password = smb.Secret(o.Password2)
		v, err = smb.Dial(ctx, c)
	}
	return v, err
}

func arrangeCIFS(v volume.Volume, of option.Options) (fuse.MountConfig, fuse.Config) {
	o := of.(*option.CIFS)
	return fuse.MountConfig{
			Source: o.Source, Subtype: "lx.cifs",
			AllowOther: true, DefaultPermissions: !o.NoPerm,
			ReadOnly: o.Mount.ReadOnly,
		}, fuse.Config{
			TimeGran:  v.Features().TimeGranularity,
			Writeback: o.Cache == option.CacheLoose,
		}
}

// servingCIFS is what o asks of the layer between the volume and the kernel.
func servingCIFS(o *option.CIFS) serve.Options {
	return serve.Options{
		Cache:        map[option.Cache]serve.Cache{option.CacheStrict: serve.Strict, option.CacheNone: serve.None, option.CacheLoose: serve.Loose}[o.Cache],
		AttrTimeout:  timeout(o.ACRegMax),
		EntryTimeout: timeout(o.ACDirMax),
		LocalLocks:   true,
	}
}

// unseen says that a caller's system call shows it no attributes.
func unseen(c fuse.Caller) bool { return guest.Thread{TID: int(c.PID)}.InNameCall() }

func presentCIFS(v volume.Volume, of option.Options, show func(*volume.Attr), note func(error)) fileSystem {
	o := of.(*option.CIFS)
	options := servingCIFS(o)
	options.Present, options.Note = show, note
	if !o.NoPerm {
		options.Unseen = unseen
	}
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
