package fuse

import (
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"
)

// notify writes a notification: a header without unique, its code in place of
// the errno. ENOENT tells that the kernel does not have what it names.
func (s *Server) notify(code int32, body, tail []byte) error {
	if s.neg.Load() == nil {
		return errors.New("cannot notify the kernel: not connected")
	}
	b := make([]byte, outHeaderSize, outHeaderSize+len(body))
	h := at[outHeader](b)
	b = append(b, body...)
	*h = outHeader{Len: uint32(len(b) + len(tail)), Error: code}
	var errno syscall.Errno
	if len(tail) > 0 {
		errno = writevFD(s.fd, b, tail)
	} else {
		errno = writeFD(s.fd, b)
	}
	if errno != 0 {
		return fmt.Errorf("cannot notify the kernel: %w", errno)
	}
	return nil
}

// The notifications below wait for locks that the kernel may hold while it
// waits for this FileSystem: NotifyInvalEntry and NotifyDelete for the parent
// directory's, NotifyInvalInode and NotifyStore for pages. They must not be
// called from a method that serves that directory or file. An error that is
// ENOENT means that the kernel had nothing cached.

// NotifyInvalInode drops a node's cached attributes and, of its cached data,
// n bytes from off; n 0 means up to the end, off less than 0 no data.
func (s *Server) NotifyInvalInode(node uint64, off, n int64) error {
	return s.notify(notifyInvalInode, bytesOf(&invalInode{Node: node, Off: off, Len: n}), nil)
}

// NotifyInvalEntry drops a cached name. With expire (Linux 6.2) the name is
// asked for again at its next use, and mounts below it stay.
func (s *Server) NotifyInvalEntry(parent uint64, name string, expire bool) error {
	e := invalEntry{Parent: parent, Namelen: uint32(len(name))}
	if n := s.neg.Load(); expire && n != nil && n.Flags&initExpireOnly != 0 {
		e.Flags = expireOnly
	}
	return s.notify(notifyInvalEntry, bytesOf(&e), nameZ(name))
}

// NotifyDelete drops a name whose node was removed, and tells inotify(7) watchers.
func (s *Server) NotifyDelete(parent, child uint64, name string) error {
	return s.notify(notifyDelete, bytesOf(&deleteEntry{Parent: parent, Child: child, Namelen: uint32(len(name))}), nameZ(name))
}

// NotifyStore puts data into a node's page cache at off.
func (s *Server) NotifyStore(node, off uint64, data []byte) error {
	return s.notify(notifyStore, bytesOf(&storeOut{Node: node, Off: off, Size: uint32(len(data))}), data)
}

// pruneOut stands before the nodes that may be dropped.
type pruneOut struct {
	Count uint32
	_     uint32
	_     uint64
}

const minorPrune = 45

// NotifyPrune has the kernel drop nodes that nothing uses: neither open files,
// working directories, mounts nor names below them. It forgets them then. ENOSYS
// is a kernel that cannot (before Linux 6.18).
func (s *Server) NotifyPrune(nodes []uint64) error {
	if n := s.neg.Load(); n != nil && n.Minor < minorPrune {
		return syscall.ENOSYS
	}
	tail := make([]byte, 0, 8*len(nodes))
	for _, n := range nodes {
		tail = binary.NativeEndian.AppendUint64(tail, n)
	}
	return s.notify(notifyPrune, bytesOf(&pruneOut{Count: uint32(len(nodes))}), tail)
}

// NotifyPoll wakes who polls the file whose Poll got kh: the kernel asks Poll again.
func (s *Server) NotifyPoll(kh uint64) error {
	return s.notify(notifyPoll, bytesOf(&pollWakeup{KH: kh}), nil)
}

// NotifyResend makes the kernel send again, with FUSE_UNIQUE_RESEND in their
// unique, all requests that were read and not answered (Linux 6.9).
func (s *Server) NotifyResend() error { return s.notify(notifyResend, nil, nil) }

func nameZ(name string) []byte { return append([]byte(name), 0) }
