package daemon

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/lxbridge/lx/core/env"
	"github.com/lxbridge/lx/core/store"
)

func TestMain(m *testing.M) {
	if os.Args[0] == store.RoleWorker {
		os.Exit(store.Worker())
	}
	os.Exit(m.Run())
}

// newDaemon has a store with the environment web, which has a folder as its source.
func newDaemon(t *testing.T) *daemon {
	t.Helper()
	d := &daemon{dirs: env.Dirs{Runtime: t.TempDir(), State: t.TempDir()}, log: slog.New(slog.DiscardHandler), kept: map[string]bool{}}
	place := t.TempDir()
	if err := errors.Join(os.Chmod(d.dirs.Runtime, 0o700), os.Chmod(place, 0o700)); err != nil {
		t.Fatal(err)
	}
	var err error
	if d.store, err = store.Open(place); err != nil {
		t.Fatal(err)
	}
	dir := place + "/environments/web"
	if err := errors.Join(os.MkdirAll(dir+"/root", 0o700), os.WriteFile(dir+"/record.json", []byte(`{"version":1,"map":"single"}`), 0o600)); err != nil {
		t.Fatal(err)
	}
	d.reserve = newReserver(d)
	return d
}

// keeper listens as that of web does, and ends when it is told to.
func keeper(t *testing.T, d *daemon) {
	t.Helper()
	l, err := net.Listen("unix", d.dirs.Socket("web"))
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		ended <- func() error {
			for {
				c, err := l.Accept()
				if err != nil {
					return err
				}
				var to [1]byte
				if _, err := io.ReadFull(c, to[:]); err != nil {
					return err
				}
				if to[0] == env.ToKeeper {
					l.Close() // its name goes with it
					_, err := io.WriteString(c, "{}")
					return errors.Join(err, c.Close())
				}
				c.Close()
			}
		}()
	}()
	t.Cleanup(func() {
		l.Close()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func ask(d *daemon, method, path, body string) (int, string) {
	w := httptest.NewRecorder()
	d.routes().ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader(body)))
	return w.Code, w.Body.String()
}

// TestRemoveRunning: what runs is removed with force alone, and the refusal says
// why it runs.
func TestRemoveRunning(t *testing.T) {
	d := newDaemon(t)
	keeper(t, d)
	code, text := ask(d, http.MethodDelete, "/v1/environments/web", "")
	if code != http.StatusConflict || strings.Contains(text, "enabled services") || !strings.Contains(text, `"hint":"lx stop web"`) {
		t.Errorf("%d %s", code, text)
	}
	if err := d.store.SetWanted("web", true); err != nil {
		t.Fatal(err)
	}
	for method, path := range map[string]string{http.MethodDelete: "/v1/environments/web", http.MethodPut: "/v1/environments/web/name"} {
		if code, text := ask(d, method, path, `"new"`); code != http.StatusConflict || !strings.Contains(text, "it runs, since it has enabled services") || !strings.Contains(text, "lx stop web") {
			t.Errorf("%s: %d %s", method, code, text)
		}
	}
	if code, text := ask(d, http.MethodDelete, "/v1/environments/web?force=true", ""); code != http.StatusOK {
		t.Errorf("%d %s", code, text)
	}
	if _, err := d.store.Get("web"); !errors.Is(err, store.ErrUnknown) {
		t.Error(err)
	}
	if code, _ := ask(d, http.MethodDelete, "/v1/environments/web?force=true", ""); code != http.StatusNotFound {
		t.Errorf("%d", code)
	}
}

// TestOwnInit: the host has its own init already.
func TestOwnInit(t *testing.T) {
	d := newDaemon(t)
	d.dirs.Config = t.TempDir()
	if err := os.WriteFile(d.dirs.Config+"/config.toml", []byte("[environment.host]\ninit = \"systemd\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, text := ask(d, http.MethodPost, "/v1/environments/host/start", "{}"); code == http.StatusOK || !strings.Contains(text, "for imported environments") {
		t.Errorf("%d %s", code, text)
	}
}

// TestWatchAgain: who is asked to watch while looking away looks once more.
func TestWatchAgain(t *testing.T) {
	d := newDaemon(t)
	d.kept["web"] = false // somebody watches
	d.watch(t.Context(), "web", false)
	if !d.lookAway(t.Context(), "web") {
		t.Error("the second request is forgotten")
	}
	if d.lookAway(t.Context(), "web") || len(d.kept) > 0 {
		t.Errorf("it goes on: %v", d.kept)
	}
	d.watch(t.Context(), "web", false) // which does not run: nothing to wait for
	d.wg.Wait()
	if len(d.kept) > 0 {
		t.Errorf("left: %v", d.kept)
	}
}
