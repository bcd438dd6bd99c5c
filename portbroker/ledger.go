package portbroker

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxbridge/lx/core/config"
	"github.com/lxbridge/lx/core/env"
	"github.com/lxbridge/lx/netns"
)

// Record is a bind or listen that a program in an environment asked for.
type Record struct {
	At          time.Time      `json:"at"`
	Environment string         `json:"environment"`
	PID         int            `json:"pid"` // in the host's numbers
	Command     string         `json:"command,omitempty"`
	Call        string         `json:"call"` // bind, listen
	Protocol    string         `json:"protocol"`
	Wanted      netip.AddrPort `json:"wanted"`
	Local       netip.AddrPort `json:"local"`            // what it got
	Error       string         `json:"error,omitempty"`  // the errno's name
	Policy      string         `json:"policy,omitempty"` // that counted; empty: share
	Socket      uint64         `json:"socket,omitempty"` // its cookie
	Why         string         `json:"why,omitempty"`
	Hint        string         `json:"hint,omitempty"`

	request Request // of what failed, until it is explained
}

// Moved says whether the policy remap has given another place than was wanted.
func (r *Record) Moved() bool {
	return r.Error == "" && r.Policy == config.PortRemap && r.Wanted.Port() != 0 && r.Wanted != r.Local
}

// identify finds the process of the thread that called.
func (r *Record) identify() {
	if p, err := netns.ReadName(r.PID); err == nil {
		r.PID, r.Command = p.PID, p.Program()
	}
}

// Ledger is a file of Records, one a line, that outlives brokers. It is
// bounded: at its limit it becomes PATH.1, and a new one begins.
type Ledger struct {
	dirs    env.Dirs
	name    func([]Holder, Place) // names hidden holders
	path    string
	log     *slog.Logger
	records chan Record
	lost    atomic.Int64
	done    sync.WaitGroup

	// Of the writer alone.
	f     *os.File
	size  int64
	lines bytes.Buffer // what is to be written
	err   error        // the first that was told
	// The thread that was last asked for, and its process.
	asked   int
	askedAt time.Time
	pid     int
	command string
}

const (
	ledgerLimit = 1 << 20 // bytes; there are two files at most
	ledgerPiece = 64 << 10
	ledgerQueue = 4096 // records that wait to be written
	// gather is how long the writer sleeps between looks, for to wake it costs
	// a bind more than all the rest.
	gather = 5 * time.Millisecond
)

func openLedger(dirs env.Dirs, name string, log *slog.Logger, nameHolders func([]Holder, Place)) (*Ledger, error) {
	l := &Ledger{dirs: dirs, name: nameHolders, path: dirs.Ports(name), log: log, records: make(chan Record, ledgerQueue)}
	if err := l.open(); err != nil {
		return nil, err
	}
	l.done.Go(l.write)
	return l, nil
}

func (l *Ledger) open() error {
	f, err := os.OpenFile(l.path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("cannot open the ledger of ports: %w", err)
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return fmt.Errorf("cannot open the ledger of ports: %w", err)
	}
	l.f, l.size = f, st.Size()
	return nil
}

// add never waits: what the writer cannot keep up with is counted as lost.
func (l *Ledger) add(r Record) {
	select {
	case l.records <- r:
	default:
		l.lost.Add(1)
	}
}

// close ends the ledger once all is written.
func (l *Ledger) close() error {
	close(l.records)
	l.done.Wait()
	return errors.Join(l.err, l.f.Close())
}

// write is the ledger's writer.
func (l *Ledger) write() {
	reader := netns.NewReader()
	defer reader.Close()
	lines := json.NewEncoder(&l.lines)
	for r := range l.records {
		if n := l.lost.Swap(0); n > 0 {
			l.log.Warn("the ledger of ports could not keep up", "records", n)
		}
		if r.Command == "" {
			l.identify(&r)
		}
		if r.Error != "" && r.Why == "" {
			l.explain(reader, &r)
		}
		err := lines.Encode(r)
		last := len(l.records) == 0
		if last || l.lines.Len() >= ledgerPiece {
			err = errors.Join(err, l.flush())
		}
		if err != nil && l.err == nil {
			l.err = fmt.Errorf("cannot write the ledger of ports: %w", err)
			l.log.Error("ports", "err", l.err)
		}
		if last {
			time.Sleep(gather)
		}
	}
}

// flush writes the lines that were gathered.
func (l *Ledger) flush() error {
	defer l.lines.Reset()
	if l.size+int64(l.lines.Len()) > ledgerLimit {
		if err := l.rotate(); err != nil {
			return err
		}
	}
	n, err := l.f.Write(l.lines.Bytes())
	l.size += int64(n)
	return err
}

// identify asks for the caller of a call, once a second if it calls often.
func (l *Ledger) identify(r *Record) {
	if r.PID == l.asked && r.At.Sub(l.askedAt) < time.Second {
		r.PID, r.Command = l.pid, l.command
		return
	}
	l.asked, l.askedAt = r.PID, r.At
	r.identify()
	l.pid, l.command = r.PID, r.Command
}

func (l *Ledger) rotate() error {
	if err := os.Rename(l.path, l.path+".1"); err != nil {
		return err
	}
	old := l.f
	if err := l.open(); err != nil {
		return err
	}
	return old.Close()
}

// explain finds who was in the way, as far as it is still so.
func (l *Ledger) explain(reader *netns.Reader, r *Record) {
	host, err := ThisHost()
	if err == nil {
		v := Decide(host.Host, nil, r.request)
		if v.Errno == 0 && r.Error == "EADDRINUSE" {
			var s *netns.Snapshot
			s, err = reader.Read(netns.Query{Protocols: []netns.Protocol{r.request.Protocol.Space()}, Connected: true, Low: max(1, r.request.Port)})
			if err == nil {
				all := Holders(s, l.dirs)
				l.name(all, Place{r.request.Protocol.Space().String(), r.request.Port})
				v = Decide(host.Host, others(all, r), r.request)
			}
		}
		if v.Errno != 0 && unix.ErrnoName(v.Errno) == r.Error {
			r.Why, r.Hint = v.Why, v.Hint
		}
	}
	l.log.Info("refused", "call", r.Call, "command", r.Command, "pid", r.PID, "port", r.Wanted, "error", r.Error, "why", r.Why)
	if err != nil {
		l.log.Warn("cannot tell who holds a port", "err", err)
	}
}

// others leaves out the bound socket that asks to listen.
func others(all []Holder, r *Record) []Holder {
	var left []Holder
	for _, h := range all {
		own := r.request.Listen && h.Local == r.Local && h.State == netns.Bound && h.Owner() != nil && h.Owner().PID == r.PID
		if !own {
			left = append(left, h)
		}
	}
	return left
}

// ReadLedger calls f for each record of the ledger at path, the oldest first.
// A ledger that does not exist is empty.
func ReadLedger(path string, f func(Record)) error {
	for _, name := range []string{path + ".1", path} {
		file, err := os.Open(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("cannot read the ledger of ports: %w", err)
		}
		err = readRecords(file, f)
		file.Close()
		if err != nil {
			return fmt.Errorf("cannot read the ledger of ports %s: %w", name, err)
		}
	}
	return nil
}

// readRecords leaves out lines that a dying broker wrote half.
func readRecords(file *os.File, f func(Record)) error {
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var r Record
		if json.Unmarshal(lines.Bytes(), &r) == nil {
			f(r)
		}
	}
	return lines.Err()
}
