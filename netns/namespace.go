package netns

import (
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// Namespace is a network namespace.
type Namespace struct {
	Inode uint64 `json:"inode"`          // 0: may not be told
	Name  string `json:"name,omitempty"` // below /run/netns, or of a container's
	PID   int    `json:"pid,omitempty"`  // a process in it; 0: none
	Own   bool   `json:"own,omitempty"`  // the caller's
	// Partial: it may not be entered, so only what /proc/PID/net tells is known.
	Partial bool `json:"partial,omitempty"`

	table uint64 // inode of its /proc/PID/net/protocols, which anybody may ask for
	path  string // to enter it by
}

// named are where tools keep namespaces without processes.
var named = []string{"/run/netns/*", "/run/docker/netns/*"}

// namespaces lists the caller's first, then those of other processes, then
// those that have none.
func namespaces(pids []int) ([]*Namespace, error) {
	var own unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &own); err != nil {
		return nil, fmt.Errorf("cannot tell the own network namespace: %w", err)
	}
	self := &Namespace{Inode: own.Ino, Own: true, table: tableOf("/proc/thread-self")}
	list := []*Namespace{self}
	tables := map[uint64]*Namespace{self.table: self}
	inodes := map[uint64]*Namespace{self.Inode: self}
	var st unix.Stat_t
	for _, pid := range pids {
		dir := "/proc/" + strconv.Itoa(pid)
		// The table's inode is the cheaper to ask for, and told of everybody's.
		table := tableOf(dir)
		if table == 0 || tables[table] != nil && tables[table].Inode != 0 {
			continue
		}
		n := tables[table]
		if n == nil {
			n = &Namespace{table: table, PID: pid}
			tables[table] = n
			list = append(list, n)
		}
		if unix.Stat(dir+"/ns/net", &st) == nil {
			n.Inode, n.PID, n.path = st.Ino, pid, dir+"/ns/net"
			inodes[n.Inode] = n
		}
	}
	for _, pattern := range named {
		paths, _ := filepath.Glob(pattern) // the patterns are well-formed
		for _, path := range paths {
			if unix.Stat(path, &st) != nil {
				continue
			}
			n := inodes[st.Ino]
			if n == nil {
				var fs unix.Statfs_t
				if unix.Statfs(path, &fs) != nil || fs.Type != unix.NSFS_MAGIC {
					continue // left behind, or mounted elsewhere
				}
				n = &Namespace{Inode: st.Ino, path: path}
				inodes[n.Inode] = n
				list = append(list, n)
			}
			if n.Name == "" {
				n.Name = filepath.Base(path)
			}
		}
	}
	return list, nil
}

// tableOf is the inode of a table that each namespace has one of; 0 where it
// cannot be told, as of a process that has ended.
func tableOf(dir string) uint64 {
	var st unix.Stat_t
	if unix.Stat(dir+"/net/protocols", &st) != nil {
		return 0
	}
	return st.Ino
}

// errEnter is that the caller may not enter a namespace.
var errEnter = errors.New("cannot enter the network namespace")

// dial opens a connection in the namespace.
func (n *Namespace) dial(groups uint32) (*conn, error) {
	if n.Own {
		return dial(groups)
	}
	if n.path == "" {
		return nil, errEnter
	}
	type result struct {
		c   *conn
		err error
	}
	done := make(chan result, 1)
	go func() {
		// The thread ends with the goroutine, for it is never unlocked.
		runtime.LockOSThread()
		c, err := n.enter(groups)
		done <- result{c, err}
	}()
	r := <-done
	return r.c, r.err
}

func (n *Namespace) enter(groups uint32) (*conn, error) {
	fd, err := unix.Open(n.path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errEnter, err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Ino != n.Inode {
		return nil, fmt.Errorf("%w: its process has ended", errEnter)
	}
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("%w: %w", errEnter, err)
	}
	return dial(groups)
}
