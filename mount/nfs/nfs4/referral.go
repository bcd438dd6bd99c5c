package nfs4

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"syscall"

	"github.com/lxbridge/lx/mount/nfs/nfs4/compound"
	"github.com/lxbridge/lx/mount/nfs/nfs4/session"
	"github.com/lxbridge/lx/mount/volume"
)

// MovedError is a path that other servers have.
type MovedError struct {
	Path      string
	Rest      []string // the names below it that were on their way
	Locations []compound.Location
}

func (e *MovedError) Error() string {
	return fmt.Sprintf("%s is on another server (%d locations)", e.Path, len(e.Locations))
}

// Unwrap is the kernel's errno for a referral that is not followed.
func (e *MovedError) Unwrap() error { return syscall.EREMOTE }

// moved asks where name in dir, which is path, has gone.
func (v *Volume) moved(ctx context.Context, dir compound.FH, name, path string) (*MovedError, error) {
	e := &MovedError{Path: path}
	err := v.call(ctx, func(_ *session.Conn, q *compound.Request) {
		q.PutFH(dir)
		q.Lookup(name)
		q.GetAttr(compound.Set(compound.AttrFSLocations))
	}, func(r *compound.Reply) error {
		if err := r.All(compound.OpPutFH, compound.OpLookup); err != nil {
			return err
		}
		a, err := r.GetAttr()
		e.Locations = a.Locations
		return err
	})
	return e, err
}

// maxReferrals is how many names of one volume may be on other servers.
const maxReferrals = 256

// referrals are the volumes that names of this one stand for.
type referrals struct {
	mu sync.Mutex
	to map[place]*referral
}

// referral is a volume on another server, reached when somebody first looks.
type referral struct {
	turn chan struct{} // one token: of who connects
	v    *Volume       // guarded by turn
}

func (s *referrals) get(p place) (*referral, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.to[p]
	if r == nil && len(s.to) >= maxReferrals {
		return nil, fmt.Errorf("more than %d of the server's directories are on others: %w", maxReferrals, syscall.ENFILE)
	}
	if r == nil {
		r = &referral{turn: make(chan struct{}, 1)}
		r.turn <- struct{}{}
		if s.to == nil {
			s.to = map[place]*referral{}
		}
		s.to[p] = r
	}
	return r, nil
}

// close closes the volumes, for good.
func (s *referrals) close() error {
	s.mu.Lock()
	to := s.to
	s.to = nil
	s.mu.Unlock()
	errs := make(chan error, len(to))
	for _, r := range to {
		<-r.turn
		go func() {
			if r.v == nil {
				errs <- nil
				return
			}
			errs <- r.v.Close()
		}()
	}
	var all error
	for range to {
		all = errors.Join(all, <-errs)
	}
	return all
}

// follow is Lookup of a name that another server has.
func (v *Volume) follow(ctx context.Context, dir compound.FH, name string) (volume.Node, volume.Attr, error) {
	there, err := v.referred(ctx, place{dir, name})
	if err != nil {
		return nil, volume.Attr{}, err
	}
	a, err := there.Getattr(ctx, there.root, nil)
	if err != nil {
		return nil, volume.Attr{}, err
	}
	return there.root, a, nil
}

// referred is the volume that p stands for. Only one caller connects to it.
func (v *Volume) referred(ctx context.Context, p place) (*Volume, error) {
	r, err := v.referrals.get(p)
	if err != nil {
		return nil, err
	}
	select {
	case <-r.turn:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { r.turn <- struct{}{} }()
	if r.v != nil {
		return r.v, nil
	}
	e, err := v.moved(ctx, p.dir, p.name, strings.TrimSuffix(v.cfg.Path, "/")+"/…/"+p.name)
	if err != nil {
		return nil, err
	}
	cfg, err := v.cfg.Refer(ctx, e)
	if err != nil {
		return nil, err
	}
	r.v, err = reach(ctx, cfg, &parent{v.leases, string(p.dir) + "/" + p.name + v.salt})
	return r.v, err
}

// parent is what a volume has of the one that referred to it.
type parent struct {
	leases *leases
	salt   string // keeps its file ids apart from those of others
}
