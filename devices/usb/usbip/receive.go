package usbip

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/lxbridge/lx/devices/usb"
)

// read handles what the server sends until it breaks off or the link ends.
func (l *link) read() error {
	r := &reader{Reader: bufio.NewReaderSize(l.conn, readSize), link: l}
	var b [HeaderSize]byte
	var h Header
	for {
		if err := r.full(b[:], nil); err != nil {
			return fmt.Errorf("the server's connection ended: %w", err)
		}
		err := h.Parse(&b)
		if err == nil {
			switch h.Command {
			case RetSubmit:
				err = l.submitted(&h, r)
			case RetUnlink:
				err = l.unlinked(&h)
			default:
				err = fmt.Errorf("%w: it sends command %d", errProtocol, h.Command)
			}
		}
		if err != nil {
			return err
		}
	}
}

// unlinked handles the answer to a cancellation: there will be none for its victim.
func (l *link) unlinked(h *Header) error {
	l.mu.Lock()
	c := l.pending[h.Seq]
	if c == nil || !c.sent || c.header.Command != CmdUnlink {
		l.mu.Unlock()
		return fmt.Errorf("%w: it answers cancellation %d, which was not sent", errProtocol, h.Seq)
	}
	var u *usb.URB
	if e := l.pending[c.header.Victim]; e != nil {
		if e.urb != nil {
			u = l.detach(e, e.cause, 0)
		} else {
			l.answerForgotten(e, 0)
		}
		l.drop(e)
	}
	l.drop(c)
	l.mu.Unlock()
	if u != nil {
		u.Complete(u)
	}
	return nil
}

// answerForgotten handles the answer for a URB that is complete.
func (l *link) answerForgotten(e *entry, status syscall.Errno) {
	if e.early == 0 {
		l.forgotten--
		return
	}
	l.earlySize -= e.early
	if status != 0 {
		l.endpoints[index(e.at)].failure = status
	}
}

// submitted handles the answer to a submission.
func (l *link) submitted(h *Header, r *reader) error {
	l.mu.Lock()
	e := l.pending[h.Seq]
	if e == nil || !e.sent || e.header.Command != CmdSubmit {
		l.mu.Unlock()
		return fmt.Errorf("%w: it answers transfer %d, which was not sent", errProtocol, h.Seq)
	}
	if h.Length > e.header.Length || e.header.Packets != 0 && h.Packets != 0 && h.Packets != e.header.Packets {
		l.mu.Unlock()
		return fmt.Errorf("%w: it answers for %d bytes and %d packets, asked for were %d and %d",
			errProtocol, h.Length, h.Packets, e.header.Length, e.header.Packets)
	}
	e.receiving = true
	u := e.urb
	l.endpoints[index(e.at)].stalled = false
	l.mu.Unlock()

	if e.header.In {
		var room []byte
		if u != nil {
			room = u.Buffer[:h.Length]
		}
		if err := r.payload(e, room, int(h.Length)); err != nil {
			return fmt.Errorf("the server's connection ended within a transfer: %w", err)
		}
	}
	var packets []byte
	if e.header.Packets != 0 && h.Packets != 0 {
		packets = r.room(int(h.Packets) * IsoPacketSize)
		if err := r.full(packets, nil); err != nil {
			return fmt.Errorf("the server's connection ended within a transfer: %w", err)
		}
	}

	status := syscall.Errno(-h.Status)
	l.mu.Lock()
	e.receiving = false
	if u = e.urb; u == nil {
		l.answerForgotten(e, status)
		l.drop(e)
		l.mu.Unlock()
		return nil
	}
	var err error
	if packets != nil {
		if err = spread(u, packets, int(h.Length)); err != nil {
			for i := range u.Packets { // what they say may never have come
				u.Packets[i].Actual = 0
			}
		}
	}
	if err == nil {
		u.StartFrame = int(h.StartFrame)
		if status == 0 && e.header.Flags&FlagShortNotOK != 0 && h.Length < e.header.Length {
			status = syscall.EREMOTEIO
		}
		l.detach(e, status, int(h.Length))
		l.drop(e)
	}
	l.mu.Unlock()
	if err != nil {
		return err
	}
	u.Complete(u)
	return nil
}

// spread sets the results of u's packets and moves what was received, size
// bytes without gaps at the buffer's start, to their places.
func spread(u *usb.URB, descriptors []byte, size int) error {
	total := 0
	for i := range u.Packets {
		p := &u.Packets[i]
		var d IsoPacket
		if err := d.Parse(descriptors[i*IsoPacketSize:], MaxTransfer); err != nil {
			return err
		}
		if int(d.ActualLength) > p.Length {
			return fmt.Errorf("%w: %d bytes in an isochronous packet of %d", errProtocol, d.ActualLength, p.Length)
		}
		p.Actual, p.Status = int(d.ActualLength), syscall.Errno(-d.Status)
		total += p.Actual
		if p.Status != 0 {
			u.ErrorCount++
		}
	}
	if !u.In() {
		return nil
	}
	if total != size {
		return fmt.Errorf("%w: isochronous packets of %d bytes in a transfer of %d", errProtocol, total, size)
	}
	// Packets ascend, so none lies before its place here; the last moves first.
	for i := len(u.Packets) - 1; i >= 0; i-- {
		p := &u.Packets[i]
		total -= p.Actual
		copy(u.Buffer[p.Offset:p.Offset+p.Actual], u.Buffer[total:total+p.Actual])
	}
	return nil
}

// reader reads whole pieces though deadlines, which only interrupt it, pass.
type reader struct {
	*bufio.Reader
	link    *link
	scratch []byte
}

func (r *reader) room(n int) []byte {
	if cap(r.scratch) < n {
		r.scratch = make([]byte, n)
	}
	return r.scratch[:n]
}

// full fills b. interrupted, where there is one, is called when a deadline
// has passed, with mu held, and tells whether to stop; b is then not full.
func (r *reader) full(b []byte, interrupted func(left int) bool) error {
	for len(b) > 0 {
		n, err := r.Read(b)
		b = b[n:]
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			if err != nil && len(b) > 0 {
				return err
			}
			continue
		}
		r.link.mu.Lock()
		if err = r.link.err; err == nil {
			err = r.link.conn.SetReadDeadline(time.Time{})
		}
		stop := interrupted != nil && interrupted(len(b))
		r.link.mu.Unlock()
		if err != nil || stop {
			return err
		}
	}
	return nil
}

// payload reads size bytes to room, where the URB's entry gives it, and as
// long as the URB is not abandoned.
func (r *reader) payload(e *entry, room []byte, size int) error {
	if len(room) > 0 {
		var u *usb.URB
		left := 0
		err := r.full(room, func(l int) bool {
			if !e.abandoned {
				return false
			}
			left = l
			u = r.link.forget(e, size-l)
			return true
		})
		if u != nil {
			u.Complete(u)
		}
		if err != nil {
			return err
		}
		size = left
	} else if size == 0 {
		return nil
	}
	for size > 0 {
		n := min(size, readSize)
		if err := r.full(r.room(n), nil); err != nil {
			return err
		}
		size -= n
	}
	return nil
}
