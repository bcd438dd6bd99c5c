package netns

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Entry is a socket with who holds it.
type Entry struct {
	Socket
	Owners []Owner `json:"owners,omitempty"`
	// Hidden: processes hold it, and the caller may not see which.
	Hidden bool `json:"hidden,omitempty"`
	// Note is what a caller knows besides.
	Note string `json:"note,omitempty"`
}

// Owner is the first owner that is told; nil for none.
func (e *Entry) Owner() *Owner {
	if len(e.Owners) == 0 {
		return nil
	}
	return &e.Owners[0]
}

// Snapshot is what one look has found.
type Snapshot struct {
	Entries    []Entry     `json:"sockets"`
	Namespaces []Namespace `json:"namespaces"` // the caller's is the first
	// Unseen says in sentences what the caller was not allowed to see.
	Unseen []string `json:"unseen,omitempty"`
}

// Reader looks at sockets, and remembers owners from one look to the next:
// processes are searched for new sockets only. Close ends it. It may be used
// by several goroutines.
type Reader struct {
	mu        sync.Mutex // guards all below
	conns     map[uint64]*conn
	refs      map[key][]ref
	processes map[int]*Process
	checked   time.Time // when all refs were last seen to hold
}

// NewReader makes a Reader.
func NewReader() *Reader {
	return &Reader{conns: map[uint64]*conn{}, refs: map[key][]ref{}, processes: map[int]*Process{}}
}

// Close frees what the reader holds.
func (r *Reader) Close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.conns {
		c.close()
	}
	clear(r.conns)
}

// Read looks at what q chooses in every namespace that may be seen.
func (r *Reader) Read(q Query) (*Snapshot, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	pids, err := processIDs()
	if err != nil {
		return nil, err
	}
	spaces, err := namespaces(pids)
	if err != nil {
		return nil, err
	}
	s := &Snapshot{}
	missing := map[Protocol]bool{}
	for _, n := range spaces {
		sockets, without, err := r.socketsOf(n, q)
		if err != nil && n.Own {
			return nil, err
		}
		if err != nil { // it has ended, or nothing of it may be read
			n.Partial = true
		}
		for _, p := range without {
			missing[p] = true
		}
		s.Entries = slices.Grow(s.Entries, len(sockets))
		for _, socket := range sockets {
			socket.Namespace = n.Inode
			s.Entries = append(s.Entries, Entry{Socket: socket})
		}
		s.Namespaces = append(s.Namespaces, *n)
	}
	r.forget(spaces)
	r.own(s, pids)
	s.Unseen = r.unseen(s, pids)
	s.sort()
	return s, nil
}

// sort puts the entries in the order that people read them in.
func (s *Snapshot) sort() {
	own := s.Namespaces[0].Inode
	order := make([]*Entry, len(s.Entries)) // entries are large
	for i := range s.Entries {
		order[i] = &s.Entries[i]
	}
	slices.SortFunc(order, func(a, b *Entry) int { return compare(a, b, own) })
	sorted := make([]Entry, len(order))
	for i, e := range order {
		sorted[i] = *e
	}
	s.Entries = sorted
}

// compare puts the caller's namespace first.
func compare(a, b *Entry, own uint64) int {
	if a.Namespace != b.Namespace && (a.Namespace == own || b.Namespace == own) {
		if a.Namespace == own {
			return -1
		}
		return 1
	}
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Protocol.Space(), b.Protocol.Space()),
		cmp.Compare(a.Local.Port(), b.Local.Port()), a.Local.Addr().Compare(b.Local.Addr()), cmp.Compare(a.Inode, b.Inode), cmp.Compare(a.Cookie, b.Cookie))
}

// socketsOf lists a namespace's sockets by the best way there is.
func (r *Reader) socketsOf(n *Namespace, q Query) ([]Socket, []Protocol, error) {
	c, err := r.conn(n)
	if errors.Is(err, errEnter) && n.PID != 0 {
		n.Partial = true
		sockets, err := readProc(fmt.Sprintf("/proc/%d/net", n.PID), q)
		return sockets, nil, err
	}
	if err != nil {
		return nil, nil, err
	}
	sockets, missing, err := c.sockets(q)
	if err != nil {
		// An answer may be half read.
		delete(r.conns, n.Inode)
		c.close()
		return nil, nil, err
	}
	if n.Own && slices.Contains(missing, TCP) { // a kernel without inet_diag
		sockets, err := readProc("/proc/thread-self/net", q)
		return sockets, missing, err
	}
	return sockets, missing, nil
}

func (r *Reader) conn(n *Namespace) (*conn, error) {
	if c := r.conns[n.Inode]; c != nil && n.Inode != 0 {
		return c, nil
	}
	c, err := n.dial(0)
	if err == nil {
		r.conns[n.Inode] = c
	}
	return c, err
}

// forget closes connections into namespaces that nobody else keeps.
func (r *Reader) forget(spaces []*Namespace) {
	for inode, c := range r.conns {
		if !slices.ContainsFunc(spaces, func(n *Namespace) bool { return n.Inode == inode }) {
			c.close()
			delete(r.conns, inode)
		}
	}
}

// recheck is how long owners are believed that live: a socket seldom changes hands.
const recheck = 2 * time.Second

// own finds the owners, of new sockets and of those that changed hands.
func (r *Reader) own(s *Snapshot, pids []int) {
	lives := map[int]bool{}
	for _, pid := range pids {
		lives[pid] = true
	}
	check := time.Since(r.checked) > recheck
	if check {
		r.checked = time.Now()
	}
	wanted := map[uint32]bool{}
	refs := make(map[key][]ref, len(s.Entries))
	for i := range s.Entries {
		e := &s.Entries[i]
		if e.Inode == 0 {
			continue
		}
		k := e.key()
		known, looked := r.refs[k]
		if looked && !slices.ContainsFunc(known, func(f ref) bool { return !lives[f.pid] || check && !f.holds(e.Inode) }) {
			refs[k] = known
			continue
		}
		wanted[e.Inode] = true
	}
	if len(wanted) > 0 {
		found := findOwners(pids, wanted)
		for i := range s.Entries {
			if e := &s.Entries[i]; wanted[e.Inode] {
				list := found[e.Inode]
				slices.SortFunc(list, func(a, b ref) int { return cmp.Or(cmp.Compare(a.pid, b.pid), cmp.Compare(a.fd, b.fd)) })
				refs[e.key()] = list
			}
		}
	}
	r.refs = refs
	processes, ancestors := map[int]*Process{}, map[int]*Process{}
	for i := range s.Entries {
		e := &s.Entries[i]
		for _, f := range refs[e.key()] {
			p, ok := processes[f.pid]
			if !ok {
				p = r.process(f.pid, ancestors)
				processes[f.pid] = p
			}
			e.Owners = append(e.Owners, Owner{p, f.fd})
		}
		e.Hidden = e.Inode != 0 && len(e.Owners) == 0
	}
	r.processes = processes
}

// process is what is remembered of a process, while it is the same.
func (r *Reader) process(pid int, ancestors map[int]*Process) *Process {
	if p, ok := r.processes[pid]; ok {
		if now, err := readFile("/proc/" + strconv.Itoa(pid) + "/stat"); err == nil && parseStart(string(now)).Equal(p.Started) && comm(now) == p.Command {
			return p
		}
	}
	p, err := ReadProcess(pid)
	if err != nil {
		return &Process{PID: pid}
	}
	p.settle(ancestors)
	return &p
}

// comm is the command in /proc/PID/stat, which an exec changes.
func comm(stat []byte) string {
	_, rest, _ := strings.Cut(string(stat), "(")
	if i := strings.LastIndexByte(rest, ')'); i >= 0 {
		return rest[:i]
	}
	return ""
}

// unseen says what was out of sight.
func (r *Reader) unseen(s *Snapshot, pids []int) []string {
	var all []string
	hidden := 0
	for i := range s.Entries {
		if s.Entries[i].Hidden {
			hidden++
		}
	}
	if hidden > 0 {
		all = append(all, fmt.Sprintf("the owners of %s: they are another user's, or outside this pid namespace (as root one sees them)", count(hidden, "socket")))
	}
	partial := 0
	for _, n := range s.Namespaces {
		if n.Partial {
			partial++
		}
	}
	if partial > 0 {
		all = append(all, fmt.Sprintf("sockets that are bound but do not listen, in %s that may not be entered", count(partial, "network namespace")))
	}
	if !slices.Contains(pids, 1) {
		all = append(all, "other users' processes: /proc is mounted with hidepid")
	}
	return all
}

func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
