package seccomp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"unsafe"

	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Inflight is the shared page that knows which notifications a broker has
// received and not yet answered. The kernel never delivers those again, so
// the next broker answers them. It maps a memfd that outlives the broker:
//
//	maxReceivers × 128 bytes   where the kernel writes notifications: an id is in
//	                           the page before the receiving thread could die
//	the rest                   ids that handlers work on, 8 bytes each; 0 is free
type Inflight struct {
	page []byte

	mu        sync.Mutex // guards the lists
	free      []int      // slots for ids
	receivers []int      // places to receive at
}

const (
	inflightSize = 64 << 10
	maxReceivers = 16
	receiverSize = 128
	firstID      = maxReceivers * receiverSize
	maxIDs       = (inflightSize - firstID) / 8
)

// NewInflight makes an empty page and answers its descriptor (close-on-exec),
// to be kept where a broker's death does not reach it.
func NewInflight() (fd int, err error) {
	fd, err = unix.MemfdCreate("lx-inflight", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_NOEXEC_SEAL)
	if errors.Is(err, unix.EINVAL) { // before 6.3
		fd, err = unix.MemfdCreate("lx-inflight", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return -1, fmt.Errorf("cannot make the page of calls in flight: %w", err)
	}
	if err := unix.Ftruncate(fd, inflightSize); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("cannot size the page of calls in flight: %w", err)
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("cannot seal the page of calls in flight: %w", err)
	}
	return fd, nil
}

// OpenInflight maps the page; fd stays the caller's. Orphans of an earlier
// broker are answered (AnswerOrphans) before a listener uses it.
func OpenInflight(fd int) (*Inflight, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, fmt.Errorf("cannot read the size of the page of calls in flight: %w", err)
	}
	if st.Size != inflightSize {
		return nil, fmt.Errorf("the page of calls in flight has %d bytes, expected %d", st.Size, inflightSize)
	}
	page, err := unix.Mmap(fd, 0, inflightSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("cannot map the page of calls in flight: %w", err)
	}
	f := &Inflight{page: page}
	f.reset()
	return f, nil
}

// Close unmaps the page; nothing may use it any more.
func (f *Inflight) Close() error { return unix.Munmap(f.page) }

func (f *Inflight) reset() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.free, f.receivers = f.free[:0], f.receivers[:0]
	for slot := range maxIDs {
		f.free = append(f.free, slot)
	}
	for r := range maxReceivers {
		f.receivers = append(f.receivers, r)
	}
}

// id is where slot keeps its notification's id.
func (f *Inflight) id(slot int) *atomic.Uint64 {
	return (*atomic.Uint64)(unsafe.Pointer(&f.page[firstID+8*slot]))
}

// receiver is where the kernel writes a notification.
func (f *Inflight) receiver(r int) *[notifSize]byte {
	return (*[notifSize]byte)(f.page[r*receiverSize:])
}

// add notes an id; ok is false when all slots are taken.
func (f *Inflight) add(id uint64) (slot int, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.free) == 0 {
		return -1, false
	}
	slot = f.free[len(f.free)-1]
	f.free = f.free[:len(f.free)-1]
	f.id(slot).Store(id)
	return slot, true
}

func (f *Inflight) drop(slot int) {
	f.id(slot).Store(0)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.free = append(f.free, slot)
}

// seat takes a place to receive at, clean for the kernel.
func (f *Inflight) seat() (r int, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.receivers) == 0 {
		return -1, false
	}
	r = f.receivers[len(f.receivers)-1]
	f.receivers = f.receivers[:len(f.receivers)-1]
	clear(f.receiver(r)[:])
	return r, true
}

func (f *Inflight) leave(r int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.receivers = append(f.receivers, r)
}

// Orphans are the ids that an earlier broker left unanswered; some may have
// been answered at the last moment.
func (f *Inflight) Orphans() (ids []uint64) {
	for r := range maxReceivers {
		if id := binary.LittleEndian.Uint64(f.receiver(r)[:]); id != 0 {
			ids = append(ids, id)
		}
	}
	for slot := range maxIDs {
		if id := f.id(slot).Load(); id != 0 {
			ids = append(ids, id)
		}
	}
	return ids
}

// AnswerOrphans answers what an earlier broker left with EINTR and empties
// the page. It is called before this process receives from the listener.
func (f *Inflight) AnswerOrphans(listener int) (answered int, err error) {
	for _, id := range f.Orphans() {
		switch errno := respond(listener, id, Reply{Errno: syscall.EINTR}); errno {
		case 0:
			answered++
		case syscall.ENOENT, syscall.EINPROGRESS: // gone, or answered before
		default:
			err = errors.Join(err, fmt.Errorf("cannot answer orphaned call %#x: %w", id, errno))
		}
	}
	clear(f.page)
	f.reset()
	return answered, err
}
