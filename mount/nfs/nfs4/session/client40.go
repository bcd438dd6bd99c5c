package session

import (
	"context"

	"github.com/lxbridge/lx/mount/nfs/nfs4/compound"
)

// setClientID makes a 4.0 client known (RFC 7530, section 16.33). It offers no
// address for callbacks, so the server grants no delegations.
func (s *Session) setClientID(ctx context.Context, old *Conn) (*Conn, error) {
	c := newConn(s, 0, 0)
	var confirm compound.Verifier
	err := c.bare(ctx, func(_ *Conn, q *compound.Request) { q.SetClientID(s.Verifier, s.Owner, "tcp", "0.0.0.0.0.0") },
		func(r *compound.Reply) (err error) { c.client, confirm, err = r.SetClientID(); return err })
	if err != nil {
		return nil, err
	}
	err = c.bare(ctx, func(_ *Conn, q *compound.Request) { q.SetClientIDConfirm(c.client, confirm) },
		func(r *compound.Reply) error { return r.Next(compound.OpSetClientIDConfirm) })
	return c, err
}
