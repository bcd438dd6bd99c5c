// Package nfs4test is an NFS 4.1 server in memory for tests of clients: one
// directory of files, and all that may happen to a client's standing: restarts
// with and without a grace period, leases that end, delegations and their
// recall, answers that are lost, operations that fail as the test says.
package nfs4test

import (
	"encoding/binary"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/lxbridge/lx/mount/nfs/nfs4/compound"
	"github.com/lxbridge/lx/mount/nfs/xdr"
)

// Server is a server. Its methods may be called at any time.
type Server struct {
	listener net.Listener
	work     sync.WaitGroup

	mu       sync.Mutex // guards what follows
	number   uint64     // of the last id that was given
	instance uint64     // of the server; a restart makes another
	grace    bool
	delegate uint32
	clients  map[uint64]*client
	sessions map[compound.SessionID]*session
	lapsed   map[compound.SessionID]bool
	files    map[string]*file
	moved    map[string]location
	conns    map[*conn]bool
	fail     func(compound.Op) compound.Status
	lose     int // answers to lose, with their connection
	counts   map[compound.Op]int
}

type client struct {
	id       uint64
	owner    string
	verifier string
	seq      uint32
	complete bool // it has said RECLAIM_COMPLETE
}

type session struct {
	id     compound.SessionID
	client *client
	back   *conn
	slots  [8]slot
	cbSeq  uint32
}

type slot struct {
	seq    uint32
	answer []byte
}

// file is a file: data is what clients see, stable what a restart leaves.
type file struct {
	name         string
	data, stable []byte
	change       uint64
	opens        map[[12]byte]*open
	locks        []held
	deleg        *delegation
}

type open struct {
	client *client
	access uint32
}

type held struct {
	client   *client
	owner    string
	off, end uint64
	write    bool
}

type delegation struct {
	id       [12]byte
	kind     uint32
	client   *client
	recalled bool
}

// New starts a server, which ends with the test.
func New(t testing.TB) *Server {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{listener: l, files: map[string]*file{}, moved: map[string]location{}, conns: map[*conn]bool{}, counts: map[compound.Op]int{}, instance: 1}
	s.clear()
	s.work.Go(s.accept)
	t.Cleanup(func() {
		l.Close()
		s.Cut()
		s.work.Wait()
	})
	return s
}

// Addr is where it listens.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// clear forgets all clients. The caller holds mu, or is New.
func (s *Server) clear() {
	s.clients, s.sessions = map[uint64]*client{}, map[compound.SessionID]*session{}
	for _, f := range s.files {
		f.opens, f.locks, f.deleg = map[[12]byte]*open{}, nil, nil
	}
}

// Restart forgets all clients and what was not committed. With grace they may
// reclaim what they had.
func (s *Server) Restart(grace bool) {
	s.mu.Lock()
	s.instance++
	s.grace = grace
	s.clear()
	for _, f := range s.files {
		f.data = append([]byte(nil), f.stable...)
	}
	s.mu.Unlock()
	s.Cut()
}

// Expire ends the leases of all clients: their state is gone, and the sessions
// with it.
func (s *Server) Expire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.grace = false
	s.clear()
}

// Lapse is Expire, with sessions that are refused as ganesha does it: not as
// unknown, but as those of an expired client.
func (s *Server) Lapse() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.grace = false
	s.lapsed = map[compound.SessionID]bool{}
	for id := range s.sessions {
		s.lapsed[id] = true
	}
	s.clear()
}

// DropSessions forgets sessions alone.
func (s *Server) DropSessions() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sessions = map[compound.SessionID]*session{}
}

// Revoke takes opens and locks of a file, as an administrator may.
func (s *Server) Revoke(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f := s.files[name]; f != nil {
		f.opens, f.locks = map[[12]byte]*open{}, nil
	}
}

// Cut ends all connections.
func (s *Server) Cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.nc.Close()
	}
}

// Delegate has opens get delegations of a kind.
func (s *Server) Delegate(kind uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.delegate = kind
}

// Fail has f say, before each operation, how it fails; OK lets it be done.
func (s *Server) Fail(f func(compound.Op) compound.Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = f
}

// Lose has the next n answers lost, each with its connection.
func (s *Server) Lose(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lose = n
}

// Count is how often an operation was done.
func (s *Server) Count(op compound.Op) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counts[op]
}

// Data is what a restart would leave of a file.
func (s *Server) Data(name string) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f := s.files[name]; f != nil {
		return append([]byte(nil), f.stable...)
	}
	return nil
}

// Locks is how many locks are held on a file.
func (s *Server) Locks(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f := s.files[name]; f != nil {
		return len(f.locks)
	}
	return 0
}

// States is how many opens, locks and delegations the server knows.
func (s *Server) States() (opens, locks, delegations int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.files {
		opens, locks = opens+len(f.opens), locks+len(f.locks)
		if f.deleg != nil {
			delegations++
		}
	}
	return opens, locks, delegations
}

// Slots is how many calls each slot has carried, in all sessions that live.
func (s *Server) Slots() (carried [len(session{}.slots)]uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, session := range s.sessions {
		for i, sl := range session.slots {
			carried[i] += sl.seq
		}
	}
	return carried
}

// location is where another server has a directory.
type location struct {
	host string
	path []string
}

// Refer has a name of the directory be on another server.
func (s *Server) Refer(name, host string, path ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.moved[name] = location{host, path}
}

// conn is a client's connection.
type conn struct {
	nc net.Conn
	mu sync.Mutex // of writers
}

func (s *Server) accept() {
	for {
		nc, err := s.listener.Accept()
		if err != nil {
			return
		}
		c := &conn{nc: nc}
		s.mu.Lock()
		s.conns[c] = true
		s.mu.Unlock()
		s.work.Go(func() {
			defer nc.Close()
			for s.serve(c) == nil {
			}
			s.mu.Lock()
			delete(s.conns, c)
			s.mu.Unlock()
		})
	}
}

// record reads an RPC record.
func record(r io.Reader) (p []byte, err error) {
	var mark [4]byte
	for last := false; !last; {
		if _, err := io.ReadFull(r, mark[:]); err != nil {
			return nil, err
		}
		n := binary.BigEndian.Uint32(mark[:])
		last = n>>31 != 0
		part := make([]byte, n&^(1<<31))
		if _, err := io.ReadFull(r, part); err != nil {
			return nil, err
		}
		p = append(p, part...)
	}
	return p, nil
}

func (c *conn) write(p []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := binary.BigEndian.AppendUint32(nil, uint32(len(p))|1<<31)
	_, err := c.nc.Write(append(out, p...))
	return err
}

// serve answers one call; answers of the client's are passed over.
func (s *Server) serve(c *conn) error {
	p, err := record(c.nc)
	if err != nil {
		return err
	}
	d := xdr.NewDecoder(p)
	xid := d.Uint32()
	if d.Uint32() != 0 {
		return nil
	}
	d.Skip(12) // version of RPC, program, its version
	proc := d.Uint32()
	for range 2 {
		d.Uint32()
		d.Opaque(400)
	}
	var e xdr.Encoder
	e.Uint32(xid)
	e.Uint32(1)
	e.Uint32(0)
	e.Uint64(0)
	e.Uint32(0)
	if proc == compound.ProcCompound {
		e.Fixed(s.compound(c, d))
	}
	s.mu.Lock()
	lose := s.lose > 0
	if lose {
		s.lose--
	}
	s.mu.Unlock()
	if lose {
		return io.ErrUnexpectedEOF
	}
	return c.write(e.Bytes())
}
