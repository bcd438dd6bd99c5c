package guest

import (
	"bytes"
	"os"

	"golang.org/x/sys/unix"
)

// ReadMemory fills p from the thread's memory at addr (process_vm_readv(2)).
// Where the memory ends inside p it answers the bytes before that and no
// error; with none it answers EFAULT, and ESRCH when the thread is gone.
// It may block for ever.
func (t Thread) ReadMemory(addr uint64, p []byte) (int, error) {
	return t.transfer(addr, p, unix.ProcessVMReadv)
}

// WriteMemory copies p to the thread's memory at addr, as ReadMemory reads.
func (t Thread) WriteMemory(addr uint64, p []byte) (int, error) {
	return t.transfer(addr, p, unix.ProcessVMWritev)
}

// maxIovecs bounds the pages that one call moves (UIO_MAXIOV is 1024).
const maxIovecs = 64

// transfer moves p page by page: one remote iovec each, for the kernel stops
// at the first that it cannot move whole.
func (t Thread) transfer(addr uint64, p []byte, call func(int, []unix.Iovec, []unix.RemoteIovec, uint) (int, error)) (int, error) {
	page := uint64(os.Getpagesize())
	done := 0
	for done < len(p) {
		var remote []unix.RemoteIovec
		size := 0
		for at := addr + uint64(done); done+size < len(p) && len(remote) < maxIovecs; {
			n := min(int(page-at%page), len(p)-done-size)
			remote = append(remote, unix.RemoteIovec{Base: uintptr(at), Len: n})
			size += n
			at += uint64(n)
		}
		local := []unix.Iovec{{Base: &p[done]}}
		local[0].SetLen(size)
		n, err := call(t.TID, local, remote, 0)
		switch {
		case err != nil && done > 0 && err == unix.EFAULT:
			return done, nil
		case err != nil:
			return done, err
		case n < size:
			return done + n, nil
		}
		done += n
	}
	return done, nil
}

// ReadString reads the string at addr up to its NUL, which is not part of the
// result. A string of more than max bytes is ENAMETOOLONG; one that runs into
// memory that is not there EFAULT. It may block for ever.
func (t Thread) ReadString(addr uint64, max int) (string, error) {
	page := uint64(os.Getpagesize())
	var s []byte
	for len(s) <= max {
		at := addr + uint64(len(s))
		b := make([]byte, min(int(page-at%page), max+1-len(s)))
		n, err := t.ReadMemory(at, b)
		if err != nil {
			return "", err
		}
		if i := bytes.IndexByte(b[:n], 0); i >= 0 {
			return string(append(s, b[:i]...)), nil
		}
		if n < len(b) {
			return "", unix.EFAULT
		}
		s = append(s, b...)
	}
	return "", unix.ENAMETOOLONG
}
