package broker

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"

	"github.com/lxbridge/lx/core/config"
	"github.com/lxbridge/lx/core/env"
	"github.com/lxbridge/lx/portbroker"
)

// serveClient takes a connection that the keeper handed over.
func (b *broker) serveClient(ctx context.Context, m env.Message) error {
	c, err := m.Conn()
	if err != nil {
		return err
	}
	if m.Text == string(rune(env.ToServed)) {
		b.serveVisitor(ctx, c)
		return nil
	}
	if m.Text == string(rune(env.ToExpose)) {
		b.wg.Go(func() {
			defer context.AfterFunc(ctx, func() { c.Close() })()
			if err := env.AnswerExpose(c, b.mounts.Expose); err != nil {
				b.log.Warn("client", "err", err)
			}
		})
		return nil
	}
	if m.Text == string(rune(env.ToPorts)) && b.ports != nil {
		b.wg.Go(func() { b.sharePorts(ctx, c) })
		return nil
	}
	b.serveHTTP(ctx, c)
	return nil
}

// sharePorts takes the daemon's reservations for as long as it lives.
func (b *broker) sharePorts(ctx context.Context, c *net.UnixConn) {
	stop := context.AfterFunc(ctx, func() { c.Close() })
	l, err := env.AcceptLink(c)
	stop()
	if err == nil {
		defer l.Close()
		defer context.AfterFunc(ctx, func() { l.Close() })()
		err = b.ports.Share(l)
	}
	if err != nil && !errors.Is(err, io.EOF) && ctx.Err() == nil {
		b.log.Warn("reservations of ports", "err", err)
	}
}

// serveHTTP speaks HTTP on one connection.
func (b *broker) serveHTTP(ctx context.Context, c *net.UnixConn) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/mounts", b.listMounts)
	mux.HandleFunc("POST /v1/policy", b.renewPolicy)
	srv := &http.Server{Handler: mux, BaseContext: func(net.Listener) context.Context { return ctx }}
	l := &once{conn: c, done: make(chan struct{})}
	srv.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateClosed || s == http.StateHijacked {
			l.Close()
		}
	}
	b.wg.Go(func() {
		defer context.AfterFunc(ctx, func() { srv.Close() })()
		if err := srv.Serve(l); !errors.Is(err, net.ErrClosed) && ctx.Err() == nil {
			b.log.Warn("client", "err", err)
		}
	})
}

func (b *broker) listMounts(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(b.mounts.Mounts()); err != nil {
		b.log.Warn("client", "err", err)
	}
}

// loadPolicy has the rules that lxnet was told, and the configuration's, count.
func (b *broker) loadPolicy() (portbroker.Policy, error) {
	told, err := portbroker.ReadRules(b.cfg.Dirs.Policy(b.cfg.Name))
	if err != nil {
		return nil, err
	}
	p := portbroker.Policy(config.MergePorts(told, b.cfg.Settings.Ports))
	b.ports.SetPolicy(p)
	return p, nil
}

// renewPolicy answers the rules that count from now on.
func (b *broker) renewPolicy(w http.ResponseWriter, _ *http.Request) {
	if b.ports == nil {
		http.Error(w, "the broker does no binds: see the log", http.StatusServiceUnavailable)
		return
	}
	p, err := b.loadPolicy()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(p); err != nil {
		b.log.Warn("client", "err", err)
	}
}
