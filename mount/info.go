package mount

import (
	"cmp"
	"log/slog"
	"slices"
	"sync"
	"time"
)

// State is how a mount fares.
type State string

const (
	Connected    State = "connected"
	Reconnecting State = "reconnecting" // the server is away
	Failed       State = "failed"       // everything answers EIO
	Unmounted    State = "unmounted"    // data is still being written out
)

// Info describes a mount. It holds no secrets.
type Info struct {
	Key     string    `json:"key"`
	Type    string    `json:"type"`
	Source  string    `json:"source"`
	Target  string    `json:"target"` // where a guest sees it, else as it was asked for
	Options []string  `json:"options"`
	State   State     `json:"state"`
	Note    string    `json:"note,omitempty"` // what it cannot do that one might count on
	Since   time.Time `json:"since"`

	Requests     uint64        `json:"requests"`
	BytesRead    uint64        `json:"bytes_read"`
	BytesWritten uint64        `json:"bytes_written"`
	Latency      time.Duration `json:"latency_ns"` // mean of all requests
	LastError    string        `json:"last_error,omitempty"`
	LastErrorAt  time.Time     `json:"last_error_at,omitzero"`
}

// Mounts lists what is served, the oldest first.
func (b *Broker) Mounts() []Info {
	seen, err := targets()
	if err != nil {
		b.cfg.Log.Warn("cannot find where file systems are mounted", "err", err)
	}
	b.mu.Lock()
	all := make([]*mounted, 0, len(b.mounts))
	for _, m := range b.mounts {
		all = append(all, m)
	}
	b.mu.Unlock()
	list := make([]Info, 0, len(all))
	for _, m := range all {
		target := ""
		if m.state() != Unmounted {
			target = seen[m.Dev]
		}
		list = append(list, m.info(target))
	}
	slices.SortFunc(list, func(a, b Info) int {
		return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.Key, b.Key))
	})
	return list
}

func (m *mounted) info(target string) Info {
	s := m.server.Stats()
	i := Info{Key: m.Key, Type: m.Type, Source: m.Source, Target: cmp.Or(target, m.Target), Options: m.Options, Since: m.Since,
		Requests: s.Requests, BytesRead: s.Read, BytesWritten: s.Written, State: m.state()}
	if s.Requests > 0 {
		i.Latency = s.LatencySum / time.Duration(s.Requests)
	}
	if m.driver != nil && m.driver.note != nil {
		i.Note = m.driver.note(m.vol, m.options)
	}
	i.LastError, i.LastErrorAt = m.journal.last()
	return i
}

func (m *mounted) state() State {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.ended:
		return Unmounted
	case m.aborted || m.vol == nil:
		return Failed
	}
	if m.net.away() != nil {
		return Reconnecting
	}
	return Connected
}

// journal remembers the last thing that went wrong with a mount.
type journal struct {
	log *slog.Logger

	mu         sync.Mutex // guards what follows
	err        string
	at, logged time.Time
}

// quiet is how long a failure that repeats itself is not logged again.
const quiet = time.Minute

// note takes a failure down, or with nil that the server answers again.
func (j *journal) note(err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err == nil {
		j.logged = time.Time{} // the next failure is another
		j.log.Info("mount", "server", "it answers again")
		return
	}
	text, now := err.Error(), time.Now()
	if text != j.err || now.Sub(j.logged) > quiet {
		j.log.Warn("mount", "err", text)
		j.logged = now
	}
	j.err, j.at = text, now
}

func (j *journal) last() (string, time.Time) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.err, j.at
}
