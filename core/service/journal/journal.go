// Package journal keeps what a service writes: lines with their time, in a
// file of bounded size and one older one.
package journal

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// Stream says where a line came from.
type Stream byte

const (
	Stdout Stream = 'o'
	Stderr Stream = 'e'
	Note   Stream = '-' // of the supervisor
)

// Entry is one line.
type Entry struct {
	Time   time.Time `json:"time"`
	Stream string    `json:"stream"` // stdout, stderr or lx
	Text   string    `json:"text"`
}

const (
	// maxFile is the size at which a file becomes the older one.
	maxFile = 2 << 20
	// maxLine is where a line is cut, in bytes.
	maxLine = 16 << 10
)

const timeLayout = "2006-01-02T15:04:05.000000Z"

// Log is one service's. Writers and readers may be many.
type Log struct {
	path string

	mu      sync.Mutex
	file    *os.File
	size    int64
	changed chan struct{} // closed at the next line
}

// New is the log at path, which is made with its first line.
func New(path string) *Log { return &Log{path: path, changed: make(chan struct{})} }

// Write adds a line.
func (l *Log) Write(s Stream, text string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil || l.size > maxFile {
		if err := l.open(); err != nil {
			return err
		}
	}
	line := fmt.Sprintf("%s %c %s\n", time.Now().UTC().Format(timeLayout), s, strings.ReplaceAll(text, "\n", " "))
	n, err := io.WriteString(l.file, line)
	l.size += int64(n)
	close(l.changed)
	l.changed = make(chan struct{})
	if err != nil {
		return fmt.Errorf("cannot write the log: %w", err)
	}
	return nil
}

// open needs mu.
func (l *Log) open() error {
	if l.file != nil {
		l.file.Close()
		l.file = nil
	}
	if st, err := os.Stat(l.path); err == nil && st.Size() > maxFile {
		if err := os.Rename(l.path, l.path+".1"); err != nil {
			return fmt.Errorf("cannot begin a new log: %w", err)
		}
	}
	if err := os.MkdirAll(filepath.Dir(l.path), 0o700); err != nil {
		return fmt.Errorf("cannot open the log: %w", err)
	}
	f, err := os.OpenFile(l.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("cannot open the log: %w", err)
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return fmt.Errorf("cannot open the log: %w", err)
	}
	l.file, l.size = f, st.Size()
	return nil
}

// Copy writes lines of r until it ends, which is when the last process of the
// service that has the pipe is gone. It reports the first failure to write,
// and reads on, so that the service never waits.
func (l *Log) Copy(s Stream, r io.Reader) (err error) {
	b := bufio.NewReaderSize(r, maxLine)
	for {
		line, rerr := b.ReadSlice('\n')
		if len(line) > 0 {
			if werr := l.Write(s, strings.TrimSuffix(string(line), "\n")); err == nil {
				err = werr
			}
		}
		if rerr != nil && !errors.Is(rerr, bufio.ErrBufferFull) {
			return err
		}
	}
}

// Close ends writing.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return nil
	}
	err := l.file.Close()
	l.file = nil
	return err
}

// Query says what to read.
type Query struct {
	Since  time.Time
	Last   int // so many lines at most, of those that are there; 0: all
	Follow bool
}

// Read calls emit for each line, oldest first, and with Follow goes on until
// ctx ends or emit fails.
func (l *Log) Read(ctx context.Context, q Query, emit func(Entry) error) error {
	l.mu.Lock()
	changed := l.changed
	l.mu.Unlock()
	var past []Entry
	keep := func(e Entry) error {
		if past = append(past, e); q.Last > 0 && len(past) > 2*q.Last {
			past = append(past[:0], past[len(past)-q.Last:]...)
		}
		return nil
	}
	older, err := open(l.path + ".1")
	if err != nil {
		return err
	}
	_, err = scan(older, 0, q.Since, keep)
	older.Close()
	if err != nil {
		return err
	}
	f, err := open(l.path)
	if err != nil {
		return err
	}
	defer func() { f.Close() }()
	at, err := scan(f, 0, q.Since, keep)
	if err != nil {
		return err
	}
	if q.Last > 0 {
		past = past[max(0, len(past)-q.Last):]
	}
	for _, e := range past {
		if err := emit(e); err != nil {
			return err
		}
	}
	for q.Follow {
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
		l.mu.Lock()
		changed = l.changed
		l.mu.Unlock()
		if at, err = scan(f, at, q.Since, emit); err != nil {
			return err
		}
		next, err := open(l.path)
		if err != nil {
			return err
		}
		if same(f, next) {
			next.Close()
			continue
		}
		f.Close() // it became the older one
		f = next
		if at, err = scan(f, 0, q.Since, emit); err != nil {
			return err
		}
	}
	return nil
}

// open is the file at path; nil where there is none.
func open(path string) (*os.File, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the log: %w", err)
	}
	return f, nil
}

// same reports whether both are one file.
func same(a, b *os.File) bool {
	if a == nil || b == nil {
		return a == b
	}
	as, aerr := a.Stat()
	bs, berr := b.Stat()
	return aerr == nil && berr == nil && os.SameFile(as, bs)
}

// scan calls do for each whole line of f from the offset at on, and answers
// the offset behind the last one.
func scan(f *os.File, at int64, since time.Time, do func(Entry) error) (int64, error) {
	if f == nil {
		return at, nil
	}
	b := bufio.NewReaderSize(io.NewSectionReader(f, at, 1<<62), 64<<10)
	for {
		line, err := b.ReadString('\n')
		if errors.Is(err, io.EOF) {
			return at, nil
		}
		if err != nil {
			return at, fmt.Errorf("cannot read the log: %w", err)
		}
		at += int64(len(line))
		if e, ok := parse(line); ok && !e.Time.Before(since) {
			if err := do(e); err != nil {
				return at, err
			}
		}
	}
}

// parse reads a line; false where it is none of ours.
func parse(line string) (Entry, bool) {
	stamp, rest, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
	if !ok || len(rest) < 2 || rest[1] != ' ' {
		return Entry{}, false
	}
	t, err := time.Parse(timeLayout, stamp)
	if err != nil {
		return Entry{}, false
	}
	name, ok := map[Stream]string{Stdout: "stdout", Stderr: "stderr", Note: "lx"}[Stream(rest[0])]
	return Entry{Time: t, Stream: name, Text: rest[2:]}, ok
}
