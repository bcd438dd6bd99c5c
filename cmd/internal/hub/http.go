package hub

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/lxbridge/lx/cmd/internal/api"
	"github.com/lxbridge/lx/core/env"
)

// enterTime is how long an attach waits for environments that do not show devices.
const enterTime = 5 * time.Second

// maxBody bounds a request, in bytes.
const maxBody = 64 << 10

// routes are the hub's interface, HTTP and JSON (see api.Hub).
func (h *hub) routes() http.Handler {
	mux := http.NewServeMux()
	for pattern, serve := range map[string]func(*http.Request) (any, error){
		"GET /hub":     func(*http.Request) (any, error) { return h.status(), nil },
		"DELETE /hub":  func(*http.Request) (any, error) { h.stop(); return nil, nil },
		"GET /devices": func(*http.Request) (any, error) { return h.list(), nil },
		"POST /devices": func(r *http.Request) (any, error) {
			var o api.AttachOptions
			if err := json.NewDecoder(r.Body).Decode(&o); err != nil {
				return nil, fmt.Errorf("cannot read the request: %w", err)
			}
			a, err := h.attach(r.Context(), o)
			if err != nil {
				return nil, err
			}
			return a.tell(), h.awaitAll(r)
		},
		"DELETE /devices/{what}": func(r *http.Request) (any, error) { return nil, h.detach(r.PathValue("what")) },
		"POST /environments/{name}/devices": func(r *http.Request) (any, error) {
			return nil, h.await(r, h.enter(r.PathValue("name")))
		},
	} {
		method, path, _ := strings.Cut(pattern, " ")
		mux.HandleFunc(fmt.Sprintf("%s /v%d%s", method, api.Version, path), func(w http.ResponseWriter, r *http.Request) {
			r.Body = http.MaxBytesReader(w, r.Body, maxBody)
			out, err := serve(r)
			w.Header().Set("Content-Type", "application/json")
			if err != nil {
				w.WriteHeader(http.StatusBadRequest)
				f := api.Failure{Error: err.Error()}
				var hint interface{ Hint() string }
				if errors.As(err, &hint) {
					f.Hint = hint.Hint()
				}
				out = f
			}
			if err := json.NewEncoder(w).Encode(out); err != nil {
				h.log.Warn("client", "err", err)
			}
		})
	}
	return mux
}

// await waits until an environment sees the devices.
func (h *hub) await(r *http.Request, e *entry) error {
	if e == nil {
		return env.ErrNotRunning
	}
	select {
	case <-e.done:
		return e.err
	case <-r.Context().Done():
		return r.Context().Err()
	}
}

// awaitAll waits for the environments that are being entered. What one of them refuses
// is in the log.
func (h *hub) awaitAll(r *http.Request) error {
	h.mu.Lock()
	var entries []*entry
	for _, e := range h.entered {
		entries = append(entries, e)
	}
	h.mu.Unlock()
	limit := time.After(enterTime)
	for _, e := range entries {
		select {
		case <-e.done:
		case <-limit:
			return nil
		case <-r.Context().Done():
			return r.Context().Err()
		}
	}
	return nil
}

func (h *hub) list() []api.Device {
	h.mu.Lock()
	defer h.mu.Unlock()
	list := make([]api.Device, 0, len(h.attachments))
	for _, a := range h.attachments {
		list = append(list, a.tell())
	}
	return list
}

func (h *hub) status() api.HubStatus {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := api.HubStatus{API: api.Version, Version: h.version, PID: os.Getpid(), Started: h.started, Environments: []string{}}
	for name, e := range h.entered {
		select {
		case <-e.done:
			if e.err == nil {
				s.Environments = append(s.Environments, name)
			}
		default:
		}
	}
	slices.Sort(s.Environments)
	return s
}
