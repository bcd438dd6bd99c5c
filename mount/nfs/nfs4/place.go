package nfs4

import (
	"context"
	"sync"
	"syscall"

	"github.com/lxbridge/lx/mount/nfs/nfs4/compound"
	"github.com/lxbridge/lx/mount/nfs/nfs4/session"
	"github.com/lxbridge/lx/mount/volume"
)

// place is where a file is: 4.0 opens by name only.
type place struct {
	dir  compound.FH
	name string
}

// places is the names of the nodes that the layer above holds.
type places struct {
	mu   sync.Mutex
	refs map[compound.FH]int
	of   map[compound.FH]place
	at   map[place]compound.FH
}

func newPlaces() *places {
	return &places{refs: map[compound.FH]int{}, of: map[compound.FH]place{}, at: map[place]compound.FH{}}
}

// found notes that fh was found at p, and one reference more.
func (s *places) found(fh compound.FH, p place) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refs[fh]++
	s.put(fh, p)
}

func (s *places) put(fh compound.FH, p place) {
	if old, ok := s.of[fh]; ok && s.at[old] == fh {
		delete(s.at, old)
	}
	s.of[fh], s.at[p] = p, fh
}

// moved notes a rename.
func (s *places) moved(from, to place) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if fh, ok := s.at[from]; ok {
		s.put(fh, to)
	}
}

// linked notes another name of fh.
func (s *places) linked(fh compound.FH, p place) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refs[fh] > 0 {
		s.put(fh, p)
	}
}

func (s *places) forget(fh compound.FH) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refs[fh]--; s.refs[fh] > 0 {
		return
	}
	delete(s.refs, fh)
	if p, ok := s.of[fh]; ok && s.at[p] == fh {
		delete(s.at, p)
	}
	delete(s.of, fh)
}

func (s *places) where(fh compound.FH) (place, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p, ok := s.of[fh]
	return p, ok
}

// openByName opens fh, which must be what its last name names, as h.
func (h *handle) openByName(ctx context.Context, call caller, v *Volume, fh compound.FH) (o compound.Opened, a volume.Attr, err error) {
	p, ok := v.places.where(fh)
	if !ok {
		return o, a, syscall.ESTALE
	}
	var got compound.FH
	err = call(ctx, h.auth, func(c *session.Conn, q *compound.Request) {
		q.PutFH(p.dir)
		q.OpenName(h.share(c), p.name)
		q.GetFH()
		q.GetAttr(v.attrs)
	}, func(r *compound.Reply) (err error) {
		if err = r.Next(compound.OpPutFH); err != nil {
			return err
		}
		o, err = r.Open()
		h.owner.answered(err)
		if err == nil {
			got, err = r.FH()
		}
		if err == nil {
			a, err = v.getAttr(r)
		}
		return err
	})
	if err == nil {
		err = h.confirm(ctx, call, got, &o)
	}
	if err == nil && got != fh {
		// Another file has the name now.
		err = call(ctx, h.auth, func(_ *session.Conn, q *compound.Request) {
			_, seq := h.owner.next()
			q.PutFH(got)
			q.Close(seq, o.State)
		}, h.readClose)
		if err == nil {
			err = syscall.ESTALE
		}
	}
	return o, a, err
}

// confirm confirms an open of a new owner, where the server wants it.
func (h *handle) confirm(ctx context.Context, call caller, fh compound.FH, o *compound.Opened) error {
	if o.Flags&compound.ResultConfirm == 0 {
		return nil
	}
	return call(ctx, h.auth, func(_ *session.Conn, q *compound.Request) {
		_, seq := h.owner.next()
		q.PutFH(fh)
		q.OpenConfirm(o.State, seq)
	}, func(r *compound.Reply) error {
		if err := r.Next(compound.OpPutFH); err != nil {
			return err
		}
		id, err := r.State(compound.OpOpenConfirm)
		h.owner.answered(err)
		if err == nil {
			o.State = id
		}
		return err
	})
}

func (h *handle) readClose(r *compound.Reply) error {
	if err := r.Next(compound.OpPutFH); err != nil {
		return err
	}
	_, err := r.State(compound.OpClose)
	h.owner.answered(err)
	return err
}
