// Package usbfs is /dev/bus/usb as a FUSE file system: what the kernel's usbfs does
// (drivers/usb/core/devio.c), for the devices of a host.Host. URBs' memory is read and
// written in the caller's by process_vm_readv(2).
package usbfs

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/fuse"
	"github.com/lxbridge/lx/devices/usb/host"
)

// FS is a fuse.FileSystem. It has to be mounted by a process of its own pid
// namespace, for callers are known by their ids.
type FS struct {
	host   *host.Host
	memory *budget
	notify func(kh uint64)
	// touching has an element for each thread at callers' memory.
	touching chan struct{}

	mu    sync.Mutex // guards what follows
	files map[uint64]*file
	next  uint64
}

// New makes a file system of h's devices. NotifyBy has to be called before it is served.
func New(h *host.Host) *FS {
	return &FS{host: h, memory: &budget{limit: envBudget, above: &total}, touching: make(chan struct{}, maxTouching), files: map[uint64]*file{}}
}

// Config is how a Server has to serve an FS.
func Config() fuse.Config {
	// A reap waits for ever, and has to end at once by any signal that is caught.
	return fuse.Config{InterruptDelay: -1}
}

// NotifyBy says how pollers are woken: Server.NotifyPoll.
func (f *FS) NotifyBy(notify func(kh uint64)) { f.notify = notify }

var (
	_ fuse.FileSystem = (*FS)(nil)
	_ fuse.Opener     = (*FS)(nil)
	_ fuse.Reader     = (*FS)(nil)
	_ fuse.Releaser   = (*FS)(nil)
	_ fuse.Opendirer  = (*FS)(nil)
	_ fuse.ReadDirer  = (*FS)(nil)
	_ fuse.Poller     = (*FS)(nil)
	_ fuse.Ioctler    = (*FS)(nil)
)

// Node ids: a bus's is busNode|bus, a device's the same with its number.
const (
	busNode   = 1 << 20
	busShift  = 8
	busMask   = 0xfff
	maxNumber = 0xff
)

func nodeOf(bus, number int) uint64 { return busNode | uint64(bus)<<busShift | uint64(number) }

func split(node uint64) (bus, number int) {
	return int(node>>busShift) & busMask, int(node & maxNumber)
}

// started is the time that all nodes show.
var started = time.Now()

func attr(node uint64, dir bool) fuse.Attr {
	ts := syscall.NsecToTimespec(started.UnixNano())
	a := fuse.Attr{Ino: node, Atime: ts, Mtime: ts, Ctime: ts, Nlink: 1, Blksize: 4096, Mode: unix.S_IFREG | 0o666}
	if dir {
		a.Mode, a.Nlink = unix.S_IFDIR|0o755, 2
	}
	return a
}

// exists says whether there is such a node.
func (f *FS) exists(node uint64) bool {
	if node == fuse.RootID {
		return true
	}
	bus, number := split(node)
	if node&busNode == 0 {
		return false
	}
	if number > 0 {
		return f.host.Find(bus, number) != nil
	}
	for _, d := range f.host.Devices() {
		if d.Bus == bus {
			return true
		}
	}
	return false
}

func isDir(node uint64) bool { return node&maxNumber == 0 || node == fuse.RootID }

// Lookup finds a bus or a device. Nothing is to be cached.
func (f *FS) Lookup(_ context.Context, parent uint64, name string) (fuse.Entry, syscall.Errno) {
	n, err := strconv.Atoi(name)
	if err != nil || len(name) != 3 || n <= 0 || !isDir(parent) {
		return fuse.Entry{}, syscall.ENOENT
	}
	node := nodeOf(n, 0)
	if parent != fuse.RootID {
		bus, _ := split(parent)
		node = nodeOf(bus, n)
		if n > maxNumber {
			return fuse.Entry{}, syscall.ENOENT
		}
	}
	if !f.exists(node) {
		return fuse.Entry{}, syscall.ENOENT
	}
	return fuse.Entry{Node: node, Attr: attr(node, isDir(node))}, 0
}

// Forget has nothing to do: nodes are numbers.
func (f *FS) Forget(uint64, uint64) {}

// Getattr answers for open files of devices that are gone too.
func (f *FS) Getattr(_ context.Context, node, _ uint64, hasFH bool) (fuse.Attr, time.Duration, syscall.Errno) {
	if !hasFH && !f.exists(node) {
		return fuse.Attr{}, 0, syscall.ENOENT
	}
	return attr(node, isDir(node)), 0, 0
}

// ReadDir lists buses, or the devices of one.
func (f *FS) ReadDir(_ context.Context, node, _, off uint64, sink fuse.DirSink) syscall.Errno {
	if !isDir(node) {
		return syscall.ENOTDIR
	}
	add := func(n int, child uint64) bool {
		if uint64(n) < off {
			return true
		}
		e := fuse.DirEntry{Name: fmt.Sprintf("%03d", n), Ino: child, Off: uint64(n) + 1, Type: unix.DT_REG}
		if isDir(child) {
			e.Type = unix.DT_DIR
		}
		return sink.Add(e)
	}
	bus, _ := split(node)
	last := 0
	for _, d := range f.host.Devices() {
		switch {
		case node == fuse.RootID && d.Bus != last:
			last = d.Bus
			if !add(d.Bus, nodeOf(d.Bus, 0)) {
				return 0
			}
		case node != fuse.RootID && d.Bus == bus:
			if !add(d.Number, nodeOf(bus, d.Number)) {
				return 0
			}
		}
	}
	return 0
}

// Opendir implements fuse.Opendirer: without it the kernel keeps what it has listed.
func (f *FS) Opendir(context.Context, uint64, uint32) (fuse.OpenOut, syscall.Errno) {
	return fuse.OpenOut{}, 0
}

// Open opens a device.
func (f *FS) Open(_ context.Context, node uint64, flags uint32) (fuse.OpenOut, syscall.Errno) {
	bus, number := split(node)
	d := f.host.Find(bus, number)
	if isDir(node) || d == nil {
		return fuse.OpenOut{}, syscall.ENODEV
	}
	o := newFile(f, d, flags&unix.O_ACCMODE != unix.O_RDONLY)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.next++
	f.files[f.next] = o
	return fuse.OpenOut{FH: f.next, Flags: fopenDirectIO}, 0
}

// fopenDirectIO is FOPEN_DIRECT_IO: reads are asked for each time.
const fopenDirectIO = 1

func (f *FS) file(fh uint64) *file {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.files[fh]
}

// Read gives the descriptors.
func (f *FS) Read(_ context.Context, _, fh uint64, off int64, dst []byte) (int, syscall.Errno) {
	o := f.file(fh)
	if o == nil {
		return 0, syscall.EBADF
	}
	if o.gone() {
		return 0, syscall.ENODEV
	}
	if raw := o.dev.Raw(); off < int64(len(raw)) {
		return copy(dst, raw[off:]), 0
	}
	return 0, 0
}

// Release ends what an open file has: its URBs, then its claims.
func (f *FS) Release(_, fh uint64, _ uint32, _ uint64) {
	f.mu.Lock()
	o := f.files[fh]
	delete(f.files, fh)
	f.mu.Unlock()
	if o != nil {
		o.close()
	}
}

// Close ends what all open files have, when the connection is gone.
func (f *FS) Close() {
	f.mu.Lock()
	files := f.files
	f.files = map[uint64]*file{}
	f.mu.Unlock()
	for _, o := range files {
		o.close()
	}
}

// Poll tells of URBs to be reaped, and of the device's end.
func (f *FS) Poll(_ context.Context, _, fh, kh uint64, _ uint32, schedule bool) (uint32, syscall.Errno) {
	o := f.file(fh)
	if o == nil {
		return unix.POLLERR, 0
	}
	return o.poll(kh, schedule), 0
}

// Ioctl does what the low byte of cmd says.
func (f *FS) Ioctl(ctx context.Context, _, fh uint64, cmd uint32, arg uint64, flags uint32, in []byte, _ uint32) (int32, []byte, syscall.Errno) {
	o := f.file(fh)
	if o == nil {
		return 0, nil, syscall.EBADF
	}
	if cmd>>8&0xff != 'U' {
		return 0, nil, syscall.ENOTTY
	}
	caller, _ := fuse.CallerOf(ctx)
	if caller.PID == 0 { // of a pid namespace that is not below ours; to process_vm_readv(2) it is ourselves
		return 0, nil, syscall.EPERM
	}
	c := &call{ctx: ctx, file: o, tid: int(caller.PID), arg: arg, in: in, size: int(cmd >> 16 & 0x3fff), layout: &layout64}
	if flags&fuse.FUSE_IOCTL_32BIT != 0 {
		c.layout = &layout32
		c.arg = uint64(uint32(arg))
	}
	n, errno := c.do(cmd & 0xff)
	return n, nil, errno
}
