package fuse

import (
	"syscall"
	"unsafe"
)

// at sees the structure T at the start of b; nil where b is too short or not aligned.
func at[T any](b []byte) *T {
	var t T
	if len(b) < int(unsafe.Sizeof(t)) || uintptr(unsafe.Pointer(unsafe.SliceData(b)))%unsafe.Alignof(t) != 0 {
		return nil
	}
	return (*T)(unsafe.Pointer(unsafe.SliceData(b)))
}

// size is the size of T in bytes.
func size[T any]() int {
	var t T
	return int(unsafe.Sizeof(t))
}

// bytesOf is the memory of *t.
func bytesOf[T any](t *T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(t)), unsafe.Sizeof(*t))
}

// readFD is read(2), restarted after signals.
func readFD(fd int, b []byte) (int, syscall.Errno) {
	for {
		n, _, e := syscall.Syscall(syscall.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
		if e != syscall.EINTR {
			return int(n), e
		}
	}
}

// writeFD is write(2).
func writeFD(fd int, b []byte) syscall.Errno {
	_, _, e := syscall.Syscall(syscall.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
	return e
}

// writevFD is writev(2) of two pieces.
func writevFD(fd int, head, tail []byte) syscall.Errno {
	iov := [2]syscall.Iovec{{Base: unsafe.SliceData(head)}, {Base: unsafe.SliceData(tail)}}
	iov[0].SetLen(len(head))
	iov[1].SetLen(len(tail))
	_, _, e := syscall.Syscall(syscall.SYS_WRITEV, uintptr(fd), uintptr(unsafe.Pointer(&iov)), 2)
	return e
}

// alignedBuffer is n bytes of which the byte at index align-head, and so the
// payload after head bytes, lies on a page boundary: b[off:] starts with head.
func alignedBuffer(n, head int) []byte {
	const page = 4096
	b := make([]byte, n+head+page)
	a := int(uintptr(unsafe.Pointer(unsafe.SliceData(b))) & (page - 1))
	off := (2*page - a - head) % page
	return b[off : off+head+n : off+head+n]
}
