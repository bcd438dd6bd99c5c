package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/lxbridge/lx/core/service"
	"github.com/lxbridge/lx/core/service/journal"
)

// Version of the messages. A supervisor answers older ones as well.
const Version = 1

// Request is what a client asks, as one JSON value. Answers follow, the last
// of which has Done.
type Request struct {
	Version int           `json:"version"`
	Verb    string        `json:"verb"`
	Names   []string      `json:"names,omitempty"`
	Unit    string        `json:"unit,omitempty"`  // add: the unit file
	Force   bool          `json:"force,omitempty"` // add, import: replace
	Now     bool          `json:"now,omitempty"`   // enable: start; disable: stop
	Log     journal.Query `json:"log"`
	Dirs    []string      `json:"dirs,omitempty"` // import: where to look first
}

// Verbs of a Request.
const (
	Add     = "add"
	Enable  = "enable"
	Disable = "disable"
	Start   = "start"
	Stop    = "stop"
	Restart = "restart"
	Reload  = "reload"
	List    = "list"
	Show    = "status"
	Logs    = "logs"
	Remove  = "remove"
	Import  = "import"
)

// Answer is one JSON value of the answer.
type Answer struct {
	Version int            `json:"version"`
	Done    bool           `json:"done,omitempty"`
	Error   string         `json:"error,omitempty"`
	Missing bool           `json:"missing,omitempty"` // the error: no such service
	Units   []Status       `json:"units,omitempty"`
	Entry   *journal.Entry `json:"entry,omitempty"`
	Notes   []string       `json:"notes,omitempty"`
	Path    string         `json:"path,omitempty"` // add, import: the unit file
	Kept    bool           `json:"kept,omitempty"` // enable, disable, remove: units are enabled
}

// Status is what is known of a service.
type Status struct {
	Name        string         `json:"name"`
	Description string         `json:"description,omitempty"`
	Path        string         `json:"path"`
	State       service.State  `json:"state"`
	Enabled     bool           `json:"enabled"`
	Since       time.Time      `json:"since"`
	PID         int            `json:"pid,omitempty"`
	Processes   int            `json:"processes,omitempty"`
	Restarts    int            `json:"restarts,omitempty"`
	Result      service.Result `json:"result,omitempty"`
	Why         string         `json:"why,omitempty"`
	Exit        *service.Exit  `json:"exit,omitempty"`
	Hint        string         `json:"hint,omitempty"`
	Says        string         `json:"says,omitempty"`   // STATUS= of sd_notify(3)
	Broken      string         `json:"broken,omitempty"` // the unit file
	Listening   bool           `json:"listening,omitempty"`
	Origin      string         `json:"origin,omitempty"` // of what is no unit file: FILE:LINE of a crontab, or a configuration
	Timer       *TimerStatus   `json:"timer,omitempty"`
}

// TimerStatus is the timer's part.
type TimerStatus struct {
	Schedule string         `json:"schedule"` // or "every 1h0m0s"
	Next     *time.Time     `json:"next,omitempty"`
	Last     *time.Time     `json:"last,omitempty"`
	Result   service.Result `json:"result,omitempty"`
	Why      string         `json:"why,omitempty"`
}

// maxRequest bounds a request, in bytes.
const maxRequest = 1 << 20

// maxAnswer bounds an answer, in bytes.
const maxAnswer = 16 << 20

// Serve answers one request on c, which stays the caller's to close.
func (s *Supervisor) Serve(ctx context.Context, c net.Conn) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	dec := json.NewDecoder(io.LimitReader(c, maxRequest))
	enc := json.NewEncoder(c)
	var r Request
	if err := dec.Decode(&r); err != nil {
		return enc.Encode(Answer{Version: Version, Done: true, Error: fmt.Sprintf("cannot read the request: %v", err)})
	}
	// The client's going away ends what it waits for.
	go func() {
		_, _ = io.Copy(io.Discard, c)
		cancel()
	}()
	send := func(a Answer) error {
		a.Version = Version
		return enc.Encode(a)
	}
	a, err := s.answer(ctx, r, send)
	if err != nil {
		a.Error, a.Missing = err.Error(), errors.Is(err, errMissing)
	}
	a.Done = true
	return send(a)
}

// Call sends r on c and gives take each answer, the last one too. The error
// is the answer's, or what went wrong with the connection.
func Call(ctx context.Context, c net.Conn, r Request, take func(Answer) error) error {
	defer context.AfterFunc(ctx, func() { c.Close() })()
	r.Version = Version
	if err := json.NewEncoder(c).Encode(r); err != nil {
		return fmt.Errorf("cannot ask the environment: %w", err)
	}
	// Who answers may be an environment's guest: no answer is without an end.
	lr := &io.LimitedReader{R: c}
	dec := json.NewDecoder(lr)
	for {
		var a Answer
		lr.N = maxAnswer
		if err := dec.Decode(&a); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("cannot hear the environment: %w", err)
		}
		if err := take(a); err != nil {
			return err
		}
		switch {
		case a.Missing:
			return MissingError(a.Error)
		case a.Error != "":
			return errors.New(a.Error)
		case a.Done:
			return nil
		}
	}
}

// MissingError says that a service does not exist.
type MissingError string

func (e MissingError) Error() string { return string(e) }
