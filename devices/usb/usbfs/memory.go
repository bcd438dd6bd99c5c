package usbfs

import (
	"context"
	"math/bits"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// Bounds on what URBs hold of our memory, as usbfs_memory_mb bounds the kernel's.
const (
	fileBudget  = 16 << 20
	envBudget   = 128 << 20 // so that no environment has all
	totalBudget = 256 << 20
	urbCost     = 512 // of a URB beside its buffer
)

// maxTouching bounds the threads of ours that one environment's memory may hold up:
// it may be a file's, of a server that never answers.
const maxTouching = 64

// touch waits for one of them.
func (f *FS) touch(ctx context.Context) syscall.Errno {
	select {
	case f.touching <- struct{}{}:
		return 0
	default:
	}
	select {
	case f.touching <- struct{}{}:
		return 0
	case <-ctx.Done():
		return syscall.EINTR
	}
}

func (f *FS) touched() { <-f.touching }

// total is what all open files of the process may hold together.
var total = budget{limit: totalBudget}

// budget counts bytes.
type budget struct {
	limit int64
	used  atomic.Int64
	above *budget // of which this is a share; nil: it is none
}

// take counts n bytes; ENOMEM: they are too many.
func (b *budget) take(n int) syscall.Errno {
	errno := syscall.Errno(0)
	if b.used.Add(int64(n)) > b.limit {
		errno = syscall.ENOMEM
	} else if b.above != nil {
		errno = b.above.take(n)
	}
	if errno != 0 {
		b.used.Add(-int64(n))
	}
	return errno
}

func (b *budget) give(n int) {
	b.used.Add(-int64(n))
	if b.above != nil {
		b.above.give(n)
	}
}

// pools keep buffers by the power of two of their size, up to maxPooled.
var pools [maxPooledBits + 1]sync.Pool

const (
	minPooledBits = 9
	maxPooledBits = 20
)

// buffer is memory of n bytes for a transfer, not cleared.
func buffer(n int) *[]byte {
	k := max(bits.Len(uint(max(n, 1)-1)), minPooledBits)
	if k > maxPooledBits {
		b := make([]byte, n)
		return &b
	}
	if b, ok := pools[k].Get().(*[]byte); ok {
		*b = (*b)[:n]
		return b
	}
	b := make([]byte, n, 1<<k)
	return &b
}

func free(b *[]byte) {
	if k := bits.Len(uint(max(cap(*b), 1) - 1)); k <= maxPooledBits && cap(*b) == 1<<k {
		pools[k].Put(b)
	}
}

// readMemory fills b from the memory of a thread that waits for our answer.
func readMemory(tid int, addr uint64, b []byte) syscall.Errno {
	if len(b) == 0 {
		return 0
	}
	local := []unix.Iovec{{Base: &b[0]}}
	local[0].SetLen(len(b))
	n, err := unix.ProcessVMReadv(tid, local, []unix.RemoteIovec{{Base: uintptr(addr), Len: len(b)}}, 0)
	if err != nil || n != len(b) {
		return syscall.EFAULT
	}
	return 0
}

// scatter gathers pieces to be written to a thread's memory in one call.
type scatter struct {
	local  []unix.Iovec
	remote []unix.RemoteIovec
	size   int
}

func (s *scatter) add(addr uint64, b []byte) {
	if len(b) == 0 {
		return
	}
	v := unix.Iovec{Base: &b[0]}
	v.SetLen(len(b))
	s.local = append(s.local, v)
	s.remote = append(s.remote, unix.RemoteIovec{Base: uintptr(addr), Len: len(b)})
	s.size += len(b)
}

func (s *scatter) write(tid int) syscall.Errno {
	if s.size == 0 {
		return 0
	}
	n, err := unix.ProcessVMWritev(tid, s.local, s.remote, 0)
	if err != nil || n != s.size {
		return syscall.EFAULT
	}
	return 0
}
