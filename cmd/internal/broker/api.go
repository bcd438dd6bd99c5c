package broker

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"

	"github.com/lxbridge/lx/core/env"
)

// serveClient takes a connection that the keeper handed over.
func (b *broker) serveClient(ctx context.Context, m env.Message) error {
	c, err := m.Conn()
	if err != nil {
		return err
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
	b.serveHTTP(ctx, c)
	return nil
}

// serveHTTP speaks HTTP on one connection.
func (b *broker) serveHTTP(ctx context.Context, c *net.UnixConn) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/mounts", b.listMounts)
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
