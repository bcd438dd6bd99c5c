package netcli

import (
	"bufio"
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/cmd/internal/command"
	"github.com/lxbridge/lx/core/env"
	"github.com/lxbridge/lx/netns"
	"github.com/lxbridge/lx/portbroker"
)

func newMetrics(t term) *cobra.Command {
	var listen, tokenFile string
	cmd := &cobra.Command{
		Use:   "metrics",
		Short: "Tell Prometheus of ports",
		Long: `metrics prints what Prometheus reads: sockets by protocol, state and environment, pairs
that share a port, reservations, and the kernel's counters. With --listen it serves
/metrics until it is ended: at unix:PATH for the user alone, or at ADDRESS:PORT for who
sends the token in --token-file, a file that only the user may read, as
"Authorization: Bearer TOKEN".`,
		Example: "  lxnet metrics\n  lxnet metrics --listen unix:$XDG_RUNTIME_DIR/lxnet.sock\n  lxnet metrics --listen 127.0.0.1:9111 --token-file ~/.config/lx/token",
		Args:    command.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r := netns.NewReader()
			defer r.Close()
			if listen == "" {
				return writeMetrics(t.out, r)
			}
			return t.serveMetrics(cmd.Context(), r, listen, tokenFile)
		},
	}
	cmd.Flags().StringVar(&listen, "listen", "", "serve at unix:PATH or ADDRESS:PORT")
	cmd.Flags().StringVar(&tokenFile, "token-file", "", "what clients of ADDRESS:PORT must know")
	return cmd
}

// writeMetrics writes Prometheus's text format.
func writeMetrics(w io.Writer, r *netns.Reader) error {
	s, err := r.Read(netns.Query{Connected: true})
	if err != nil {
		return err
	}
	counters, err := netns.Counters()
	if err != nil {
		return err
	}
	dirs, err := env.UserDirs()
	if err != nil {
		return err
	}
	reserved, err := portbroker.ReadReservations(dirs.Reservations())
	if err != nil {
		return err
	}
	type group struct{ protocol, state, environment string }
	sockets := map[group]int{}
	for i := range s.Entries {
		e := &s.Entries[i]
		g := group{e.Protocol.String(), e.State.String(), ""}
		if o := e.Owner(); o != nil {
			g.environment = o.Environment
		}
		sockets[g]++
	}
	holding := slices.DeleteFunc(slices.Clone(s.Entries), func(e netns.Entry) bool { return !e.Holds() })

	b := bufio.NewWriter(w)
	family := func(name, kind, help string) { fmt.Fprintf(b, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind) }
	family("lx_sockets", "gauge", "Sockets that may be seen; no environment is the host.")
	for _, g := range slices.SortedFunc(maps.Keys(sockets), func(a, b group) int {
		return slices.Compare([]string{a.protocol, a.state, a.environment}, []string{b.protocol, b.state, b.environment})
	}) {
		fmt.Fprintf(b, "lx_sockets{protocol=%s,state=%s,environment=%s} %d\n", label(g.protocol), label(g.state), label(g.environment), sockets[g])
	}
	family("lx_ports_shared", "gauge", "Pairs of different programs that share a port.")
	fmt.Fprintf(b, "lx_ports_shared %d\n", len(shadows(holding)))
	family("lx_port_reserved", "gauge", "Ports that are reserved: 1 where it is held.")
	for _, v := range reserved {
		held := 0
		if v.Socket != 0 {
			held = 1
		}
		fmt.Fprintf(b, "lx_port_reserved{protocol=%s,port=\"%d\",environment=%s} %d\n", label(v.Protocol), v.Port, label(v.Environment), held)
	}
	family("lx_kernel", "untyped", "Counters and settings as nstat names them.")
	for _, c := range counters {
		fmt.Fprintf(b, "lx_kernel{name=%s} %d\n", label(c.Name), c.Value)
	}
	return b.Flush()
}

// label is a label's value, quoted.
func label(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(strings.ToValidUTF8(s, "?")) + `"`
}

// minToken is the shortest token that is accepted, in bytes.
const minToken = 16

func readToken(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("cannot read the token: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return "", fmt.Errorf("cannot read the token: %w", err)
	}
	if st.Mode().Perm()&0o077 != 0 {
		return "", command.WithHint(fmt.Errorf("cannot use the token in %s: others may read it", path), "chmod 600 "+path)
	}
	b, err := io.ReadAll(io.LimitReader(f, 4096))
	if err != nil {
		return "", fmt.Errorf("cannot read the token: %w", err)
	}
	token := strings.TrimSpace(string(b))
	if len(token) < minToken {
		return "", command.WithHint(fmt.Errorf("cannot use the token in %s: it is shorter than %d bytes", path, minToken), "head -c 32 /dev/urandom | base64 > "+path)
	}
	return token, nil
}

func (t term) serveMetrics(ctx context.Context, r *netns.Reader, at, tokenFile string) error {
	token := ""
	path, isUnix := strings.CutPrefix(at, "unix:")
	network, addr := "tcp", at
	switch {
	case isUnix:
		network, addr = "unix", path
	case tokenFile == "":
		return command.Misused(errors.New("--listen ADDRESS:PORT needs --token-file: without it anybody on the network may ask"))
	default:
		var err error
		if token, err = readToken(tokenFile); err != nil {
			return err
		}
	}
	old := unix.Umask(0o077)
	l, err := new(net.ListenConfig).Listen(ctx, network, addr)
	unix.Umask(old)
	if err != nil {
		return fmt.Errorf("cannot serve metrics: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, q *http.Request) {
		if token != "" && subtle.ConstantTimeCompare([]byte(q.Header.Get("Authorization")), []byte("Bearer "+token)) != 1 {
			w.Header().Set("WWW-Authenticate", "Bearer")
			http.Error(w, "the token is missing or wrong", http.StatusUnauthorized)
			return
		}
		var b strings.Builder
		if err := writeMetrics(&b, r); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		if _, err := io.WriteString(w, b.String()); err != nil {
			fmt.Fprintln(t.err, "lxnet: client:", err)
		}
	})
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, WriteTimeout: time.Minute}
	defer context.AfterFunc(ctx, func() { srv.Close() })()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("cannot serve metrics: %w", err)
	}
	return nil
}
