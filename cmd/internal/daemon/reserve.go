package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/lxbridge/lx/core/config"
	"github.com/lxbridge/lx/core/env"
	"github.com/lxbridge/lx/netns"
	"github.com/lxbridge/lx/portbroker"
)

// reserver holds the ports that policies reserve, and gives copies to the
// environments' brokers. What is not a channel is its goroutine's.
type reserver struct {
	*daemon
	wake  chan struct{}                        // an environment may have started
	asked chan chan<- []portbroker.Reservation // the rules have changed
	gone  chan *env.Link                       // of a broker

	reader *netns.Reader
	held   *portbroker.Held
	links  map[string]*env.Link
	failed map[string]int           // keepers to which there is no link, which has been told
	told   []portbroker.Reservation // what was written last
}

func newReserver(d *daemon) *reserver {
	return &reserver{daemon: d, wake: make(chan struct{}, 1), asked: make(chan chan<- []portbroker.Reservation), gone: make(chan *env.Link),
		reader: netns.NewReader(), held: portbroker.NewHeld(), links: map[string]*env.Link{}, failed: map[string]int{}}
}

// tryAgain is how often a port that somebody holds is tried: a bind costs less
// than to ask the kernel who has it.
const tryAgain = 250 * time.Millisecond

// run holds ports until ctx ends.
func (r *reserver) run(ctx context.Context) {
	defer func() {
		for _, l := range r.links {
			l.Close()
		}
		r.held.Close()
		r.write(nil)
	}()
	for {
		all := r.renew(ctx)
		var retry <-chan time.Time
		if slices.ContainsFunc(all, func(v portbroker.Reservation) bool { return v.Socket == 0 }) {
			retry = time.After(tryAgain)
		}
		select {
		case <-ctx.Done():
			return
		case <-r.wake:
		case <-retry:
		case l := <-r.gone:
			maps.DeleteFunc(r.links, func(_ string, mine *env.Link) bool { return mine == l })
			l.Close()
		case answer := <-r.asked:
			answer <- r.renew(ctx)
		}
	}
}

// poke has run look for environments that have no link yet.
func (r *reserver) poke() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// renew holds what the rules say, gives it to the brokers, and writes it down
// for who explains conflicts.
func (r *reserver) renew(ctx context.Context) []portbroker.Reservation {
	want, err := wanted(r.dirs)
	if err != nil {
		r.log.Error("reservations of ports: what was held stays", "err", err)
		return r.told
	}
	had := r.held.Want(want)
	fresh := r.link(ctx)
	if len(fresh) > 0 { // they may have brought some
		had = r.held.Want(want)
	}
	all := slices.SortedFunc(maps.Values(had), func(a, b portbroker.Reservation) int {
		return cmp.Or(cmp.Compare(a.Port, b.Port), cmp.Compare(a.Protocol, b.Protocol))
	})
	changed := r.told == nil || !slices.Equal(all, r.told)
	for name, l := range r.links {
		if !changed && !slices.Contains(fresh, name) {
			continue
		}
		if err := r.held.Give(l, name); err != nil {
			r.log.Warn("reservations of ports", "environment", name, "err", err)
		}
	}
	if changed {
		r.write(all)
	}
	return all
}

// write keeps the list where commands and brokers find it.
func (r *reserver) write(all []portbroker.Reservation) {
	if err := portbroker.WriteReservations(r.dirs.Reservations(), all); err != nil {
		r.log.Error("reservations of ports", "err", err)
	}
	r.told = append([]portbroker.Reservation{}, all...)
}

// linkTime bounds how long an environment's broker may take to answer.
const linkTime = 5 * time.Second

// link makes links to environments that have none, and answers which.
func (r *reserver) link(ctx context.Context) []string {
	names, err := r.dirs.Names()
	if err != nil {
		r.log.Error("reservations of ports", "err", err)
	}
	var fresh []string
	for _, name := range names {
		pid, _ := r.dirs.Process(name)
		if pid == 0 || r.links[name] != nil || r.failed[name] == pid {
			continue
		}
		l, err := r.join(ctx, name)
		if errors.Is(err, context.DeadlineExceeded) { // on a busy machine
			r.poke()
			continue
		}
		if err != nil {
			if now, _ := r.dirs.Process(name); now == pid && ctx.Err() == nil { // else it has ended
				r.log.Warn("reservations of ports", "environment", name, "err", err)
				r.failed[name] = pid
			}
			continue
		}
		r.links[name] = l
		fresh = append(fresh, name)
		r.wg.Go(func() {
			if err := portbroker.Answer(l, r.reader); !errors.Is(err, io.EOF) && ctx.Err() == nil {
				r.log.Warn("reservations of ports", "environment", name, "err", err)
			}
			select {
			case r.gone <- l:
			case <-ctx.Done():
			}
		})
	}
	return fresh
}

func (r *reserver) join(ctx context.Context, name string) (*env.Link, error) {
	ctx, cancel := context.WithTimeout(ctx, linkTime)
	defer cancel()
	l, err := env.DialLink(ctx, r.dirs, name, env.ToPorts)
	if err != nil {
		return nil, err
	}
	defer context.AfterFunc(ctx, func() { l.Close() })()
	if err := r.held.Join(l, name); err != nil {
		l.Close()
		return nil, cmp.Or(context.Cause(ctx), err)
	}
	return l, nil
}

// wanted are the reservations of all environments. What two want, the first by
// name has.
func wanted(dirs env.Dirs) (map[portbroker.Place]portbroker.Reservation, error) {
	settings, err := config.Environments(dirs.Config)
	if err != nil {
		return nil, err
	}
	names := slices.Collect(maps.Keys(settings))
	paths, err := filepath.Glob(dirs.Policy("*"))
	if err != nil {
		return nil, fmt.Errorf("cannot find policies: %w", err)
	}
	for _, path := range paths {
		names = append(names, strings.TrimSuffix(filepath.Base(path), filepath.Ext(path)))
	}
	all := map[portbroker.Place]portbroker.Reservation{}
	for _, name := range slices.Backward(slices.Compact(slices.Sorted(slices.Values(names)))) {
		told, err := portbroker.ReadRules(dirs.Policy(name))
		if err != nil {
			return nil, err
		}
		policy := portbroker.Policy(config.MergePorts(told, settings[name].Ports))
		for place, rule := range policy.Places() {
			all[place] = portbroker.Reservation{Place: place, Environment: name, Why: rule.Why}
		}
	}
	return all, nil
}

// movePolicy has the rules that lxnet was told go with the environment's name;
// to nothing: they are forgotten.
func (d *daemon) movePolicy(from, to string) error {
	defer d.reserve.poke()
	var err error
	if to != "" {
		err = os.Rename(d.dirs.Policy(from), d.dirs.Policy(to))
	} else {
		err = os.Remove(d.dirs.Policy(from))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot change the policies of ports: %w", err)
	}
	return nil
}

// renewReservations has changed rules count, and answers what is reserved.
func (d *daemon) renewReservations(req *http.Request) (any, error) {
	answer := make(chan []portbroker.Reservation, 1)
	select {
	case d.reserve.asked <- answer:
	case <-req.Context().Done():
		return nil, context.Cause(req.Context())
	case <-d.life.Done():
		return nil, context.Cause(d.life)
	}
	return append([]portbroker.Reservation{}, <-answer...), nil
}
