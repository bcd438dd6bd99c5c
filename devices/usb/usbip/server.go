package usbip

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/lxbridge/lx/devices/usb"
)

// maxConversations bounds the connections at a time.
const maxConversations = 256

// Exports are the devices that a server has. Methods may be called
// concurrently; client is the peer's address, for rules and the log.
type Exports interface {
	List(client net.Addr) []DeviceInfo
	// Open gives a device to one client, which closes it. A refusal that is
	// an OpStatus is told to the client.
	Open(ctx context.Context, client net.Addr, busID string) (DeviceInfo, usb.Device, error)
}

// Server exports devices.
type Server struct {
	Exports Exports
	Log     *slog.Logger // what clients do: the audit log
	// Welcome is given each connection first, and answers what to talk over; nil:
	// the conversation is over. Without it, it is the connection.
	Welcome func(context.Context, net.Conn) (net.Conn, error)
}

// Serve accepts clients until ctx ends or the listener fails, and returns when
// all conversations have ended.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	var group sync.WaitGroup
	defer group.Wait()
	defer cancel()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	places := make(chan struct{}, maxConversations)
	for {
		places <- struct{}{}
		conn, err := l.Accept()
		if err != nil {
			<-places
			if ctx.Err() != nil {
				return nil
			}
			if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ECONNABORTED) {
				s.Log.Warn("cannot accept a client", "error", err)
				select {
				case <-ctx.Done():
				case <-time.After(100 * time.Millisecond):
				}
				continue
			}
			return fmt.Errorf("cannot accept clients: %w", err)
		}
		group.Go(func() {
			defer func() { <-places }()
			s.ServeConn(ctx, conn)
		})
	}
}

// ServeConn talks with one client and closes the connection.
func (s *Server) ServeConn(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	log := s.Log.With("client", conn.RemoteAddr())
	if err := watchPeer(conn); err != nil {
		log.Warn("cannot watch over the connection", "error", err)
		return
	}
	if s.Welcome == nil {
		s.talk(ctx, conn, log)
		return
	}
	inner, err := s.Welcome(ctx, conn)
	if err != nil {
		log.Warn("refused", "error", err)
		return
	}
	if inner != nil {
		s.talk(ctx, inner, log)
	}
}

// talk does what the client asks for.
func (s *Server) talk(ctx context.Context, conn net.Conn, log *slog.Logger) {
	_ = conn.SetDeadline(time.Now().Add(answerTime)) // one that cannot be set is closed: reading says so
	r := bufio.NewReaderSize(conn, readSize)
	q, err := readRequest(r)
	if err != nil {
		log.Warn("refused", "error", err)
		return
	}
	if q.code == opDevlist {
		if _, err := conn.Write(appendList(nil, s.Exports.List(conn.RemoteAddr()))); err != nil {
			log.Warn("cannot send the list", "error", err)
		}
		return
	}
	log = log.With("device", q.busID)
	info, dev, err := s.Exports.Open(ctx, conn.RemoteAddr(), q.busID)
	if err != nil {
		log.Warn("refused", "error", err)
		status := StatusFailed
		errors.As(err, &status)
		_, _ = conn.Write(appendImport(nil, status, nil)) // the client learns it, or is gone
		return
	}
	log.Info("attached")
	if _, err := conn.Write(appendImport(nil, StatusOK, &info)); err == nil {
		_ = conn.SetDeadline(time.Time{})
		err = export(ctx, conn, r, info, dev)
		log.Info("detached", "reason", err)
	}
	if err := dev.Close(); err != nil {
		log.Warn("cannot close the device", "error", err)
	}
}
