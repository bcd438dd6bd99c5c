package fuse

import (
	"fmt"
	"syscall"
)

// init answers the kernel's INIT, which is the first request of a connection.
// It answers nil where the connection ended before.
func (s *Server) init() (*Negotiated, error) {
	rb := getReadBuffer()
	defer readBuffers.Put(rb)
	buf := rb[:]
	for {
		n, errno := readFD(s.fd, buf)
		switch errno {
		case 0:
		case syscall.ENOENT:
			continue
		case syscall.ENODEV, syscall.ECONNABORTED:
			return nil, nil
		default:
			return nil, fmt.Errorf("cannot read FUSE's INIT: %w", errno)
		}
		h := at[inHeader](buf[:n])
		if h == nil || h.Opcode != opInit {
			return nil, fmt.Errorf("cannot start a FUSE connection: INIT expected, got %d bytes", n)
		}
		in := at[initIn](buf[inHeaderSize:n])
		if in == nil {
			// Before 7.36 there was no flags2.
			clear(buf[n : inHeaderSize+size[initIn]()])
			in = at[initIn](buf[inHeaderSize:])
		}
		if n < inHeaderSize+16 {
			return nil, fmt.Errorf("cannot start a FUSE connection: INIT of %d bytes", n)
		}
		if in.Major > protoMajor { // it asks again in our version
			if e := s.sendInit(h.Unique, initOut{Major: protoMajor, Minor: protoMinor}); e != 0 {
				return nil, fmt.Errorf("cannot answer FUSE's INIT: %w", e)
			}
			continue
		}
		neg, err := negotiate(in, s.cfg, &s.can)
		if err != nil {
			// The kernel hears of it if it still listens; the error is err.
			_ = sendErrno(s.fd, h.Unique, syscall.EPROTO)
			return nil, err
		}
		if e := s.sendInit(h.Unique, neg.reply()); e != 0 {
			return nil, fmt.Errorf("cannot answer FUSE's INIT: %w", e)
		}
		return &neg, nil
	}
}

func (s *Server) sendInit(unique uint64, o initOut) syscall.Errno {
	var msg struct {
		Head outHeader
		Out  initOut
	}
	msg.Head = outHeader{Len: uint32(size[outHeader]() + size[initOut]()), Unique: unique}
	msg.Out = o
	return writeFD(s.fd, bytesOf(&msg))
}
