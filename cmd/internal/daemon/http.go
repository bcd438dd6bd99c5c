package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"

	"github.com/lxbridge/lx/cmd/internal/api"
	"github.com/lxbridge/lx/core/env"
	"github.com/lxbridge/lx/core/store"
)

// maxBody bounds a request, in bytes.
const maxBody = 1 << 20

// routes are the interface's calls. Each answers JSON, an api.Failure where it fails.
func (d *daemon) routes() http.Handler {
	mux := http.NewServeMux()
	for pattern, f := range map[string]func(*http.Request) (any, error){
		"GET /v1/daemon":                       d.status,
		"DELETE /v1/daemon":                    d.end,
		"GET /v1/environments":                 d.list,
		"DELETE /v1/environments/{name}":       d.remove,
		"POST /v1/environments/{name}/start":   d.start,
		"POST /v1/environments/{name}/stop":    d.stopEnvironment,
		"PUT /v1/environments/{name}/name":     d.rename,
		"PUT /v1/environments/{name}/wanted":   d.setWanted,
		"PUT /v1/default":                      d.setDefault,
		"POST /v1/environments/{name}/updates": d.checkUpdates,
		"POST /v1/environments/{name}/login":   d.loggedIn,
		"POST /v1/reservations":                d.renewReservations,
	} {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			r.Body = http.MaxBytesReader(w, r.Body, maxBody)
			out, err := f(r)
			w.Header().Set("Content-Type", "application/json")
			if err != nil {
				w.WriteHeader(code(err))
				failure := api.Failure{Error: err.Error()}
				var h hinted
				if errors.As(err, &h) {
					failure.Hint = h.hint
				}
				out = failure
			}
			if err := json.NewEncoder(w).Encode(out); err != nil {
				d.log.Warn("client", "err", err)
			}
		})
	}
	return mux
}

// badRequest is a call that cannot be understood.
type badRequest struct{ error }

// hinted is an error with a line that says what to do.
type hinted struct {
	error
	hint string
}

func (h hinted) Unwrap() error { return h.error }

func code(err error) int {
	var bad badRequest
	switch {
	case errors.As(err, &bad):
		return http.StatusBadRequest
	case errors.Is(err, store.ErrUnknown):
		return http.StatusNotFound
	case errors.Is(err, store.ErrExists), errors.Is(err, errRunning):
		return http.StatusConflict
	}
	return http.StatusInternalServerError
}

func body[T any](r *http.Request) (v T, err error) {
	dec := json.NewDecoder(r.Body)
	dec.DisallowUnknownFields()
	if err := dec.Decode(&v); err != nil && !errors.Is(err, io.EOF) {
		return v, badRequest{fmt.Errorf("cannot read the request: %w", err)}
	}
	return v, nil
}

func name(r *http.Request) (string, error) {
	n := r.PathValue("name")
	if err := store.CheckName(n); err != nil {
		return "", badRequest{err}
	}
	return n, nil
}

func (d *daemon) status(*http.Request) (any, error) {
	s := api.Status{API: api.Version, Version: d.version, PID: os.Getpid(), Started: d.started, Manager: "none"}
	if d.managed {
		s.Manager = "systemd"
	}
	return s, nil
}

func (d *daemon) end(*http.Request) (any, error) {
	// After the answer: Close waits for nobody.
	d.wg.Go(func() { d.stop() })
	return struct{}{}, nil
}

// list are the environments of the store and those that run besides.
func (d *daemon) list(*http.Request) (any, error) {
	records, err := d.store.List()
	if err != nil {
		d.log.Warn("records", "err", err)
	}
	def, err := d.store.Default()
	if err != nil {
		return nil, err
	}
	running, err := d.dirs.Names()
	if err != nil {
		return nil, err
	}
	var list []api.Environment
	for _, rec := range records {
		list = append(list, api.Environment{Name: rec.Name, Wanted: rec.Wanted, Source: rec.Source, Map: rec.Map, Created: rec.Created})
	}
	for _, n := range running {
		if !slices.ContainsFunc(list, func(e api.Environment) bool { return e.Name == n }) {
			list = append(list, api.Environment{Name: n})
		}
	}
	for i := range list {
		e := &list[i]
		e.Default = e.Name == def
		pid, _ := d.dirs.Process(e.Name)
		e.Running = pid != 0
	}
	return slices.DeleteFunc(list, func(e api.Environment) bool {
		return !e.Running && !slices.ContainsFunc(records, func(r store.Record) bool { return r.Name == e.Name })
	}), nil
}

func (d *daemon) start(r *http.Request) (any, error) {
	n, err := name(r)
	if err != nil {
		return nil, err
	}
	o, err := body[api.StartOptions](r)
	if err != nil {
		return nil, err
	}
	return struct{}{}, d.launch(r.Context(), n, o)
}

func (d *daemon) stopEnvironment(r *http.Request) (any, error) {
	n, err := name(r)
	if err != nil {
		return nil, err
	}
	err = env.Stop(r.Context(), d.dirs, n)
	if errors.Is(err, env.ErrNotRunning) {
		err = nil
	}
	return struct{}{}, err
}

func (d *daemon) setWanted(r *http.Request) (any, error) {
	n, err := name(r)
	if err != nil {
		return nil, err
	}
	wanted, err := body[bool](r)
	if err != nil {
		return nil, err
	}
	if err := d.store.SetWanted(n, wanted); err != nil {
		return nil, err
	}
	if wanted {
		d.watch(d.life, n, false)
	}
	return struct{}{}, nil
}

func (d *daemon) setDefault(r *http.Request) (any, error) {
	n, err := body[string](r)
	if err != nil {
		return nil, err
	}
	return struct{}{}, d.store.SetDefault(n)
}

var errRunning = errors.New("it runs")

func (d *daemon) rename(r *http.Request) (any, error) {
	from, err := name(r)
	if err != nil {
		return nil, err
	}
	to, err := body[string](r)
	if err != nil {
		return nil, err
	}
	return struct{}{}, d.idle(r, from, "rename", false, func() error {
		if err := d.store.Rename(from, to); err != nil {
			return err
		}
		return d.movePolicy(from, to)
	})
}

func (d *daemon) remove(r *http.Request) (any, error) {
	n, err := name(r)
	if err != nil {
		return nil, err
	}
	if _, err := d.store.Get(n); err != nil {
		return nil, fmt.Errorf("cannot remove %w", err)
	}
	force := r.URL.Query().Get("force") == "true" && n != store.Host
	return struct{}{}, d.idle(r, n, "remove", force, func() error {
		if err := d.store.Remove(r.Context(), n); err != nil {
			return err
		}
		return d.movePolicy(n, "")
	})
}

// idle runs f while the environment does not run and cannot start. With force
// it is stopped first.
func (d *daemon) idle(r *http.Request, n, what string, force bool, f func() error) error {
	unlock, err := env.LockStart(r.Context(), d.dirs, n)
	if err != nil {
		return err
	}
	defer unlock()
	if !env.Running(r.Context(), d.dirs, n) {
		return f()
	}
	if !force {
		err := fmt.Errorf("cannot %s %s: %w", what, n, errRunning)
		if rec, rerr := d.store.Get(n); rerr == nil && rec.Wanted {
			err = fmt.Errorf("%w, since it has enabled services: the daemon starts it whenever it starts itself", err)
		}
		return hinted{err, "lx stop " + n}
	}
	if err := env.Stop(r.Context(), d.dirs, n); err != nil && !errors.Is(err, env.ErrNotRunning) {
		d.log.Warn("stopped to "+what, "environment", n, "err", err)
		if env.Running(r.Context(), d.dirs, n) {
			return fmt.Errorf("cannot %s %s: %w", what, n, err)
		}
	}
	return f()
}
