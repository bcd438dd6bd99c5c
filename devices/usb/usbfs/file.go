package usbfs

import (
	"context"
	"errors"
	"slices"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/devices/usb"
	"github.com/lxbridge/lx/devices/usb/host"
)

// file is an open device.
type file struct {
	fs       *FS
	dev      *host.Device
	writable bool
	quit     chan struct{}
	watch    sync.WaitGroup
	// submitting is held for reading while a URB is about to be submitted.
	submitting sync.RWMutex

	mu       sync.Mutex // guards what follows
	pending  []*async
	finished []*async
	used     int           // bytes of the budget
	change   chan struct{} // closed, and made anew, when a URB is finished
	pollers  []uint64
	dropped  bool   // DROP_PRIVILEGES
	allowed  uint32 // interfaces that may be claimed then
}

// async is a submitted URB.
type async struct {
	usb.URB
	file    *file
	addr    uint64 // the caller's struct
	data    uint64 // the caller's buffer
	layout  *layout
	iface   int // -1: endpoint 0
	memory  *[]byte
	packets []byte // struct usbdevfs_iso_packet_desc, as they were given
	cost    int
}

var _ host.Owner = (*file)(nil)

func newFile(fs *FS, d *host.Device, writable bool) *file {
	f := &file{fs: fs, dev: d, writable: writable, quit: make(chan struct{}), change: make(chan struct{})}
	f.watch.Go(func() {
		select {
		case <-d.Gone():
			f.wake()
		case <-f.quit:
		}
	})
	return f
}

func (f *file) gone() bool {
	select {
	case <-f.dev.Gone():
		return true
	default:
		return false
	}
}

// wake wakes reapers and pollers.
func (f *file) wake() {
	f.mu.Lock()
	close(f.change)
	f.change = make(chan struct{})
	pollers := f.pollers
	f.pollers = nil
	f.mu.Unlock()
	for _, kh := range pollers {
		f.fs.notify(kh)
	}
}

// take counts memory that a transfer needs.
func (f *file) take(n int) syscall.Errno {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.used+n > fileBudget {
		return syscall.ENOMEM
	}
	if errno := f.fs.memory.take(n); errno != 0 {
		return errno
	}
	f.used += n
	return 0
}

func (f *file) give(n int) {
	f.mu.Lock()
	f.used -= n
	f.mu.Unlock()
	f.fs.memory.give(n)
}

// begin submits a, unless its interface was taken away.
func (f *file) begin(a *async) syscall.Errno {
	f.submitting.RLock()
	defer f.submitting.RUnlock()
	if a.iface >= 0 && f.dev.OwnerOf(uint8(a.iface)) != f {
		return syscall.EIO
	}
	f.mu.Lock()
	f.pending = append(f.pending, a)
	f.mu.Unlock()
	a.Complete = a.complete
	if err := f.dev.Submit(&a.URB); err != nil {
		f.mu.Lock()
		f.remove(a)
		f.mu.Unlock()
		return errnoOf(err)
	}
	return 0
}

// remove needs mu.
func (f *file) remove(a *async) {
	if i := slices.Index(f.pending, a); i >= 0 {
		f.pending = slices.Delete(f.pending, i, i+1)
	}
}

func (a *async) complete(*usb.URB) {
	f := a.file
	f.mu.Lock()
	f.remove(a)
	f.finished = append(f.finished, a)
	f.mu.Unlock()
	f.wake()
}

// end gives back what a holds.
func (a *async) end() {
	a.file.give(a.cost)
	free(a.memory)
}

// next takes the URB that finished first. Where none has, and wait is set, it waits
// for one. EAGAIN: none has; ENODEV: none, and the device is gone.
func (f *file) next(ctx context.Context, wait bool) (*async, syscall.Errno) {
	for {
		gone := f.gone() // before the look: what is gone finishes URBs first
		f.mu.Lock()
		if len(f.finished) > 0 {
			a := f.finished[0]
			f.finished = f.finished[1:]
			f.mu.Unlock()
			return a, 0
		}
		idle, change := len(f.pending) == 0, f.change
		f.mu.Unlock()
		end := f.dev.Gone()
		switch {
		case gone && idle:
			return nil, syscall.ENODEV
		case !wait:
			return nil, syscall.EAGAIN
		case gone:
			end = nil // only URBs are waited for
		}
		select {
		case <-change:
		case <-end:
		case <-ctx.Done():
			return nil, syscall.EINTR
		}
	}
}

// back gives back what next answered.
func (f *file) back(a *async) {
	f.mu.Lock()
	f.finished = slices.Insert(f.finished, 0, a)
	f.mu.Unlock()
	f.wake()
}

// discard cancels the URB of that address and waits until it is finished. EINVAL:
// there is none.
func (f *file) discard(addr uint64) syscall.Errno {
	f.mu.Lock()
	i := slices.IndexFunc(f.pending, func(a *async) bool { return a.addr == addr })
	if i < 0 {
		f.mu.Unlock()
		return syscall.EINVAL
	}
	a := f.pending[i]
	f.mu.Unlock()
	f.cancel([]*async{a})
	return 0
}

// cancel cancels URBs and waits until they are finished, which a Device sees to.
func (f *file) cancel(urbs []*async) {
	f.submitting.Lock() // what is not submitted yet could not be cancelled
	for _, a := range urbs {
		f.dev.Cancel(&a.URB)
	}
	f.submitting.Unlock()
	for _, a := range urbs {
		for {
			f.mu.Lock()
			pending, change := slices.Contains(f.pending, a), f.change
			f.mu.Unlock()
			if !pending {
				break
			}
			<-change
		}
	}
}

// Released implements host.Owner.
func (f *file) Released(iface uint8) {
	f.mu.Lock()
	var urbs []*async
	for _, a := range f.pending {
		if a.iface == int(iface) {
			urbs = append(urbs, a)
		}
	}
	f.mu.Unlock()
	f.cancel(urbs)
}

// close ends all that the open file has.
func (f *file) close() {
	close(f.quit)
	f.watch.Wait()
	f.mu.Lock()
	urbs := slices.Clone(f.pending)
	f.mu.Unlock()
	f.cancel(urbs)
	for i := range uint8(maxInterfaces) {
		f.dev.Release(f, i)
	}
	f.mu.Lock()
	finished := f.finished
	f.finished = nil
	f.mu.Unlock()
	for _, a := range finished {
		a.end()
	}
}

// maxInterfaces is more than the number of any interface.
const maxInterfaces = 32

func (f *file) poll(kh uint64, schedule bool) (events uint32) {
	f.mu.Lock()
	defer f.mu.Unlock()
	gone := f.gone() // by now wake finds kh, or the device is seen to be gone
	if f.writable && len(f.finished) > 0 {
		events |= unix.POLLOUT | pollWRNorm
	}
	if gone {
		events |= unix.POLLHUP | unix.POLLERR
	}
	if schedule && !slices.Contains(f.pollers, kh) {
		f.pollers = append(f.pollers, kh)
	}
	return events
}

// pollWRNorm is POLLWRNORM.
const pollWRNorm = 0x100

// claim gets an interface for the file, unless it has it.
func (f *file) claim(iface uint32) syscall.Errno {
	if iface >= maxInterfaces {
		return syscall.EINVAL
	}
	f.mu.Lock()
	denied := f.dropped && f.allowed&(1<<iface) == 0
	f.mu.Unlock()
	if f.dev.OwnerOf(uint8(iface)) == f {
		return 0
	}
	if denied {
		return syscall.EACCES
	}
	return errnoOf(f.dev.Claim(f, uint8(iface)))
}

// endpoint finds an endpoint and gets its interface.
func (f *file) endpoint(addr uint8) (usb.Endpoint, int, syscall.Errno) {
	e, iface, ok := f.dev.Endpoint(usb.Address(addr))
	if !ok {
		return e, 0, syscall.ENOENT
	}
	return e, int(iface), f.claim(uint32(iface))
}

// recipient gets the interface that a control request is for (check_ctrlrecip).
func (f *file) recipient(s usb.Setup) syscall.Errno {
	if s.RequestType&usb.TypeMask == usb.TypeVendor {
		return 0
	}
	index := uint8(s.Index)
	switch s.RequestType & usb.RecipientMask {
	case usb.ToEndpoint:
		if index&^usb.DirIn == 0 {
			return 0
		}
		_, iface, ok := f.dev.Endpoint(usb.Address(index))
		if !ok { // programs mistake the direction
			_, iface, ok = f.dev.Endpoint(usb.Address(index ^ usb.DirIn))
		}
		if !ok {
			return syscall.ENOENT
		}
		return f.claim(uint32(iface))
	case usb.ToInterface:
		if s.RequestType == 0xa1 && s.Request == 0 { // a printer's GET_DEVICE_ID
			if a := f.dev.Setting(uint8(s.Index >> 8)); a != nil && a.Class == classPrinter {
				return 0
			}
		}
		return f.claim(uint32(index))
	}
	return 0
}

const classPrinter = 7

// errnoOf is the errno in err; EIO where there is none.
func errnoOf(err error) syscall.Errno {
	var errno syscall.Errno
	if err == nil {
		return 0
	}
	if errors.As(err, &errno) {
		return errno
	}
	return syscall.EIO
}
