package portbroker

import (
	"errors"
	"fmt"
	"maps"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/env"
)

// Held are the reservations of the daemon's life. It is for one goroutine.
type Held struct {
	want map[Place]Reservation
	held map[Place]heldPort
}

// NewHeld holds nothing yet.
func NewHeld() *Held { return &Held{held: map[Place]heldPort{}} }

// Close lets all ports go; copies of brokers stay.
func (h *Held) Close() {
	for p := range h.held {
		h.drop(p)
	}
}

func (h *Held) drop(p Place) {
	unix.Close(h.held[p].fd)
	delete(h.held, p)
}

// Want holds what is wanted, as far as it can be had now, and lets go what is
// not. It answers what is wanted with what was had.
func (h *Held) Want(want map[Place]Reservation) map[Place]Reservation {
	h.want = want
	for p, had := range h.held {
		if want[p].Environment != had.Environment {
			h.drop(p)
		}
	}
	all := maps.Clone(want)
	for p, r := range all {
		had, ok := h.held[p]
		if !ok {
			var err error
			if had.fd, had.Socket, err = Reserve(p); err != nil {
				r.Missing = cannotReserve(p, err)
				all[p] = r
				continue
			}
		}
		r.Socket = had.Socket
		h.held[p], all[p] = heldPort{had.fd, r}, r
	}
	return all
}

// cannotReserve says why, in words that the kernel's error lacks.
func cannotReserve(p Place, err error) string {
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return "somebody holds it"
	case errors.Is(err, unix.EACCES):
		return fmt.Sprintf("the port is privileged; as root: sysctl -w net.ipv4.ip_unprivileged_port_start=%d", p.Port)
	}
	return err.Error()
}

// shut takes SO_REUSEADDR from what is held for the environment, which a broker
// that was killed within past has left; the next has no copies yet.
func (h *Held) shut(environment string) error {
	var errs []error
	for _, had := range h.held {
		if had.Environment == environment {
			errs = append(errs, unix.SetsockoptInt(had.fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 0))
		}
	}
	return errors.Join(errs...)
}

// Join takes over from the broker of an environment, on a new link, what an earlier
// daemon gave it, where it is wanted still and is not held.
func (h *Held) Join(l *env.Link, environment string) error {
	theirs, err := receiveReservations(l, func(string) {})
	if err == nil && len(theirs) == 0 {
		err = h.shut(environment)
	}
	if err != nil {
		return fmt.Errorf("cannot ask environment %s for its reservations: %w", environment, err)
	}
	for p, t := range theirs {
		if _, ok := h.held[p]; !ok && h.want[p].Environment == environment && t.Environment == environment {
			h.held[p] = t
		} else {
			unix.Close(t.fd)
		}
	}
	return nil
}

// Give tells the environment's broker what is held for it.
func (h *Held) Give(l *env.Link, environment string) error {
	all := map[Place]heldPort{}
	for p, had := range h.held {
		if had.Environment == environment {
			all[p] = had
		}
	}
	return sendReservations(l, all)
}
