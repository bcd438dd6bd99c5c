package fuse

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A FUSE mount is made in steps, each of which another process, or a guest with
// the new mount API, may do:
//
//	OpenContext   fsopen("fuse") and /dev/fuse, in the user namespace that is to own it
//	Configure     the options and FSCONFIG_CMD_CREATE: the superblock is there, INIT is queued
//	Server.Serve  answers INIT; before that every access waits
//	Fsmount       a detached mount, to be put in place with move_mount(2)

// MountConfig says what Configure sets. Each value travels in its own key.
type MountConfig struct {
	Source             string // as /proc/mounts shows it
	Subtype            string // "lx.cifs" is shown as type fuse.lx.cifs
	RootMode           uint32 // file type and mode of the root; 0 means a directory of 0755
	UID, GID           uint32 // owner of the mount, mapped in the context's user namespace
	MaxRead            uint32 // bytes; 0 means no limit
	AllowOther         bool   // others than UID may enter
	DefaultPermissions bool   // the kernel checks modes
	ReadOnly           bool   // the superblock, not only the mount
}

// OpenContext opens an fs context of type fuse and the /dev/fuse that goes with
// it, which must be opened in the same user namespace. The caller closes both.
func OpenContext() (fsfd, devfd int, err error) {
	devfd, err = unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, -1, fmt.Errorf("cannot open /dev/fuse: %w", err)
	}
	fsfd, err = unix.Fsopen("fuse", unix.FSOPEN_CLOEXEC)
	if err != nil {
		unix.Close(devfd)
		return -1, -1, fmt.Errorf("cannot open a FUSE context: %w", err)
	}
	return fsfd, devfd, nil
}

// Configure sets the options of the fs context fsfd, ties it to the connection
// devfd and makes the superblock. An error has the kernel's own words, which
// are in the context's log.
func Configure(fsfd, devfd int, c MountConfig) error {
	mode := c.RootMode
	if mode == 0 {
		mode = unix.S_IFDIR | 0o755
	}
	type option struct{ key, value string }
	options := []option{
		{"source", c.Source},
		{"subtype", c.Subtype},
		{"fd", strconv.Itoa(devfd)}, // as a string: FSCONFIG_SET_FD came later
		{"rootmode", strconv.FormatUint(uint64(mode), 8)},
		{"user_id", strconv.FormatUint(uint64(c.UID), 10)},
		{"group_id", strconv.FormatUint(uint64(c.GID), 10)},
	}
	if c.MaxRead != 0 {
		options = append(options, option{"max_read", strconv.FormatUint(uint64(c.MaxRead), 10)})
	}
	for _, o := range options {
		if o.value == "" {
			continue
		}
		if err := unix.FsconfigSetString(fsfd, o.key, o.value); err != nil {
			return contextError(fsfd, "set "+o.key, err)
		}
	}
	for key, on := range map[string]bool{
		"allow_other":         c.AllowOther,
		"default_permissions": c.DefaultPermissions,
		"ro":                  c.ReadOnly,
	} {
		if !on {
			continue
		}
		if err := unix.FsconfigSetFlag(fsfd, key); err != nil {
			return contextError(fsfd, "set "+key, err)
		}
	}
	if err := unix.FsconfigCreate(fsfd); err != nil {
		return contextError(fsfd, "create the superblock", err)
	}
	return nil
}

// Fsmount makes a detached mount of a configured context. attrs are MOUNT_ATTR_*.
func Fsmount(fsfd, attrs int) (mountfd int, err error) {
	mountfd, err = unix.Fsmount(fsfd, unix.FSMOUNT_CLOEXEC, attrs)
	if err != nil {
		return -1, contextError(fsfd, "mount", err)
	}
	return mountfd, nil
}

// Attach puts a detached mount at target, in the caller's view.
func Attach(mountfd int, target string) error {
	if err := unix.MoveMount(mountfd, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("cannot attach a mount at %s: %w", target, err)
	}
	return nil
}

// Mount makes a mount at target. devfd is for Serve; nobody has served it yet,
// so an access to target waits until then.
func Mount(target string, c MountConfig, attrs int) (devfd int, err error) {
	fsfd, devfd, err := OpenContext()
	if err != nil {
		return -1, err
	}
	defer unix.Close(fsfd)
	if err = Configure(fsfd, devfd, c); err == nil {
		var mountfd int
		if mountfd, err = Fsmount(fsfd, attrs); err == nil {
			err = Attach(mountfd, target)
			unix.Close(mountfd)
		}
	}
	if err != nil {
		unix.Close(devfd)
		return -1, err
	}
	return devfd, nil
}

// ContextLog takes the messages out of an fs context's log: a kind ('e', 'w' or
// 'i') and a space before each (fsopen(2)).
func ContextLog(fsfd int) ([]string, error) {
	var lines []string
	buf := make([]byte, 4096)
	for {
		n, err := unix.Read(fsfd, buf)
		switch {
		case errors.Is(err, unix.ENODATA):
			return lines, nil
		case err != nil:
			return lines, fmt.Errorf("cannot read a context's log: %w", err)
		case n == 0:
			return lines, io.ErrUnexpectedEOF
		}
		lines = append(lines, string(bytes.TrimRight(buf[:n], "\n")))
	}
}

func contextError(fsfd int, what string, err error) error {
	if lines, logErr := ContextLog(fsfd); logErr == nil && len(lines) > 0 {
		return fmt.Errorf("cannot %s: %w (%s)", what, err, strings.Join(lines, "; "))
	}
	return fmt.Errorf("cannot %s: %w", what, err)
}
