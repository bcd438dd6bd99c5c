package portbroker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/config"
	"github.com/lxbridge/lx/core/env"
	"github.com/lxbridge/lx/netns"
)

// Place is a port of one protocol.
type Place struct {
	Protocol string `json:"protocol"` // tcp, udp
	Port     uint16 `json:"port"`
}

func (p Place) String() string { return fmt.Sprintf("%s/%d", p.Protocol, p.Port) }

// Reservation is a port that is to be held for an environment, by a bound
// socket of the daemon's, of which the environment's broker has a copy.
type Reservation struct {
	Place
	Environment string `json:"environment"`
	Why         string `json:"why,omitempty"`
	Socket      uint64 `json:"socket,omitempty"` // its cookie; 0: it could not be had
	Missing     string `json:"missing,omitempty"`
}

// Places are the ports that the rules reserve.
func (p Policy) Places() map[Place]config.PortRule {
	places := map[Place]config.PortRule{}
	for _, r := range p {
		for port := int(r.Ports.Low); r.Policy == config.PortReserve && port <= int(r.Ports.High); port++ {
			for protocol, number := range map[string]netns.Protocol{"tcp": netns.TCP, "udp": netns.UDP} {
				if p.Rule(number, uint16(port)) == r {
					places[Place{protocol, uint16(port)}] = r
				}
			}
		}
	}
	return places
}

// Reserve binds a socket that keeps everybody from the port, on all addresses.
func Reserve(p Place) (fd int, cookie uint64, err error) {
	var sa unix.Sockaddr = &unix.SockaddrInet6{Port: int(p.Port)}
	kind, number := unix.SOCK_STREAM, unix.IPPROTO_TCP
	if p.Protocol == "udp" {
		kind, number = unix.SOCK_DGRAM, unix.IPPROTO_UDP
	}
	fd, err = unix.Socket(unix.AF_INET6, kind|unix.SOCK_CLOEXEC, number)
	if errors.Is(err, unix.EAFNOSUPPORT) {
		sa = &unix.SockaddrInet4{Port: int(p.Port)}
		fd, err = unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, number)
	} else if err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_V6ONLY, 0)
	}
	if err == nil && p.Protocol == "udp" {
		// Nobody reads what comes.
		nothing := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K}
		err = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &nothing})
	}
	// What is left of connections is no holder.
	reuse := 0
	if p.Protocol == "tcp" {
		reuse = 1
	}
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, reuse)
	}
	if err == nil {
		err = unix.Bind(fd, sa)
	}
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 0)
	}
	if err == nil {
		cookie, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
	}
	if err != nil {
		unix.Close(fd)
		return -1, 0, err
	}
	return fd, cookie, nil
}

// past has f bind or listen with the socket s beside the reservation: for that
// long both have SO_REUSEADDR, with which TCP lets sockets share a port that does
// not listen, and UDP any. The port is never free, and no user matters.
func past(reservation, s int, f func() syscall.Errno) syscall.Errno {
	set := func(fd, value int) syscall.Errno {
		errno, _ := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, value).(syscall.Errno)
		return errno
	}
	had, err := unix.GetsockoptInt(s, unix.SOL_SOCKET, unix.SO_REUSEADDR)
	if err != nil {
		return unix.EADDRINUSE
	}
	if set(s, 1) != 0 || set(reservation, 1) != 0 {
		return unix.EADDRINUSE
	}
	errno := f()
	_, _ = set(reservation, 0), set(s, had) // as before, it cannot fail
	return errno
}

// reservations are the broker's copies.
type reservations struct {
	mu    sync.Mutex // guards all below, and what past does
	held  map[Place]heldPort
	known chan struct{} // closed once the daemon has told all
}

type heldPort struct {
	fd int
	Reservation
}

// patience is how long a bind to a reserved port waits for a daemon that has not
// told of it yet: environment and broker may have started a moment ago.
const patience = time.Second

// pass is past with the reservation of the port, where there is one.
func (r *reservations) pass(p Place, s int, f func() syscall.Errno) syscall.Errno {
	r.mu.Lock()
	defer r.mu.Unlock()
	h, ok := r.held[p]
	if !ok {
		return unix.EADDRINUSE
	}
	return past(h.fd, s, f)
}

// await waits until the daemon has told of its reservations.
func (r *reservations) await(ctx context.Context) error {
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-r.known:
	case <-late.C:
	}
	return nil
}

// replace takes the descriptors over.
func (r *reservations) replace(all map[Place]heldPort) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, h := range r.held {
		unix.Close(h.fd)
	}
	r.held = all
	select {
	case <-r.known:
	default:
		close(r.known)
	}
}

// Letters of the link between daemon and broker. The broker begins with what it
// has, so that a new daemon goes on with it; then the daemon says what counts,
// each time all of it, and answers the broker's questions.
const (
	linkReservation = 'R' // a Reservation as JSON, and its socket
	linkAll         = 'G' // these were all
	linkWho         = 'Q' // a Place as JSON: who has it?
	linkOwners      = 'A' // the answer: owners as JSON
)

// owners are processes by the cookies of the sockets that they hold.
type owners map[uint64]netns.Process

// Share is the broker's side: it takes reservations until the daemon is gone.
// What it has then stays.
func (b *Broker) Share(l *env.Link) error {
	b.reserved.mu.Lock()
	err := sendReservations(l, b.reserved.held)
	b.reserved.mu.Unlock()
	if err != nil {
		return err
	}
	b.link.Store(l)
	defer b.link.CompareAndSwap(l, nil)
	for {
		all, err := receiveReservations(l, func(answer string) {
			var o owners
			if err := json.Unmarshal([]byte(answer), &o); err != nil {
				b.log.Warn("the daemon does not tell who holds a port", "err", err)
			}
			select {
			case b.answers <- o:
			default: // nobody waits any more
			}
		})
		if err != nil {
			return err
		}
		b.reserved.replace(all)
	}
}

// answerTime is how long the daemon may take to tell who holds a port.
const answerTime = time.Second

// nameByDaemon has the daemon name holders on the host, which may not be seen
// from within a user namespace. Without a daemon they stay hidden.
func (b *Broker) nameByDaemon(all []Holder, p Place) {
	l := b.link.Load()
	if l == nil || !slices.ContainsFunc(all, func(h Holder) bool { return h.Hidden }) {
		return
	}
	b.asking.Lock()
	defer b.asking.Unlock()
	select {
	case <-b.answers: // of one that came late
	default:
	}
	text, err := json.Marshal(p)
	if err == nil {
		err = l.Send(linkWho, string(text))
	}
	if err != nil {
		return // Share tells
	}
	late := time.NewTimer(answerTime)
	defer late.Stop()
	select {
	case o := <-b.answers:
		for i := range all {
			if who, ok := o[all[i].Cookie]; ok && all[i].Hidden {
				who.UID = all[i].UID // in our numbers
				all[i].Hidden, all[i].Owners = false, []netns.Owner{{Process: &who, FD: -1}}
			}
		}
	case <-late.C:
	}
}

// Answer is the daemon's side after Join and Give: it tells the broker who holds
// what, until that is gone.
func Answer(l *env.Link, reader *netns.Reader) error {
	for {
		m, err := l.Receive()
		if err != nil {
			return err
		}
		m.Discard()
		var p Place
		if err := json.Unmarshal([]byte(m.Text), &p); err != nil || m.Letter != linkWho {
			return errors.New("cannot tell a broker who holds a port: malformed question")
		}
		o := owners{}
		q := netns.Query{Protocols: []netns.Protocol{netns.TCP}, Connected: true, Low: max(1, p.Port)}
		if p.Protocol == "udp" {
			q.Protocols[0] = netns.UDP
		}
		s, err := reader.Read(q)
		if err != nil {
			return err
		}
		for _, e := range s.Entries {
			if w := e.Owner(); w != nil && len(o) < maxOwners {
				o[e.Cookie] = netns.Process{PID: w.PID, UID: w.UID, User: w.User, Command: w.Program(), Environment: w.Environment, Container: w.Container}
			}
		}
		text, err := json.Marshal(o)
		if err == nil {
			err = l.Send(linkOwners, string(text))
		}
		if err != nil {
			return err
		}
	}
}

// maxOwners bounds an answer to the size of a packet; holders come before what
// is left of connections.
const maxOwners = 50

func sendReservations(l *env.Link, all map[Place]heldPort) error {
	for _, h := range all {
		b, err := json.Marshal(h.Reservation)
		if err != nil {
			return err
		}
		if err := l.Send(linkReservation, string(b), h.fd); err != nil {
			return err
		}
	}
	return l.Send(linkAll, "")
}

// receiveReservations takes all of one turn; the descriptors are the caller's.
// What else is said meanwhile goes to other.
func receiveReservations(l *env.Link, other func(text string)) (all map[Place]heldPort, err error) {
	all = map[Place]heldPort{}
	defer func() {
		if err != nil {
			for _, h := range all {
				unix.Close(h.fd)
			}
		}
	}()
	for {
		m, err := l.Receive()
		if err != nil {
			return all, err
		}
		if m.Letter == linkAll {
			return all, nil
		}
		if m.Letter == linkOwners {
			m.Discard()
			other(m.Text)
			continue
		}
		var r Reservation
		if err := json.Unmarshal([]byte(m.Text), &r); err != nil || m.Letter != linkReservation || len(m.FDs) != 1 {
			m.Discard()
			return all, errors.New("cannot take a reservation: malformed message")
		}
		if old, twice := all[r.Place]; twice {
			unix.Close(old.fd)
		}
		all[r.Place] = heldPort{m.FDs[0], r}
	}
}

// ReadReservations reads the daemon's list; nothing where there is none.
func ReadReservations(path string) ([]Reservation, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var all []Reservation
	if err == nil {
		err = json.Unmarshal(b, &all)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the reservations: %w", err)
	}
	return all, nil
}

// WriteReservations keeps the list for ReadReservations.
func WriteReservations(path string, all []Reservation) error {
	if err := writeJSON(path, append([]Reservation{}, all...)); err != nil {
		return fmt.Errorf("cannot keep the reservations: %w", err)
	}
	return nil
}
