package netns

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Owner is a process that has a socket open.
type Owner struct {
	*Process
	FD int `json:"fd"`
}

// ref is one descriptor of a socket.
type ref struct{ pid, fd int }

// holds says whether the descriptor is still that socket's.
func (r ref) holds(inode uint32) bool {
	var link [32]byte
	n, err := unix.Readlink("/proc/"+strconv.Itoa(r.pid)+"/fd/"+strconv.Itoa(r.fd), link[:])
	if err != nil {
		return false
	}
	got, ok := socketInode(link[:n])
	return ok && got == inode
}

// processIDs lists the processes that /proc shows.
func processIDs() ([]int, error) {
	d, err := os.Open("/proc")
	if err != nil {
		return nil, fmt.Errorf("cannot list processes: %w", err)
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("cannot list processes: %w", err)
	}
	var pids []int
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// findOwners looks through the descriptors of all processes for sockets with
// the wanted inodes. Processes that it may not look into have none.
func findOwners(pids []int, wanted map[uint32]bool) map[uint32][]ref {
	found := map[uint32][]ref{}
	var mu sync.Mutex // guards found
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), 8) {
		wg.Go(func() {
			w := walker{wanted: wanted, entries: make([]byte, 64<<10)}
			for {
				i := int(next.Add(1)) - 1
				if i >= len(pids) {
					break
				}
				w.walk(pids[i])
			}
			mu.Lock()
			defer mu.Unlock()
			for inode, refs := range w.found {
				found[inode] = append(found[inode], refs...)
			}
		})
	}
	wg.Wait()
	return found
}

// walker looks through processes one after the other.
type walker struct {
	wanted  map[uint32]bool
	found   map[uint32][]ref
	entries []byte
	link    [64]byte
}

func (w *walker) walk(pid int) {
	dir, err := unix.Open("/proc/"+strconv.Itoa(pid)+"/fd", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return // not ours to see, or ended
	}
	defer unix.Close(dir)
	for {
		n, err := unix.Getdents(dir, w.entries)
		if err != nil || n == 0 {
			return
		}
		for b := w.entries[:n]; len(b) >= direntName; {
			size := int(native.Uint16(b[direntSize:]))
			name := b[direntName:size]
			b = b[size:]
			fd, ok := number(name)
			if !ok {
				continue // . and ..
			}
			n, err := readlinkat(dir, name, w.link[:])
			if err != nil {
				continue // closed since
			}
			inode, ok := socketInode(w.link[:n])
			if !ok || !w.wanted[inode] {
				continue
			}
			if w.found == nil {
				w.found = map[uint32][]ref{}
			}
			w.found[inode] = append(w.found[inode], ref{pid, fd})
		}
	}
}

// Offsets in struct linux_dirent64.
const (
	direntSize = 16
	direntName = 19
)

// number reads a name that is digits up to its NUL.
func number(name []byte) (n int, ok bool) {
	for _, c := range name {
		if c < '0' || c > '9' {
			break
		}
		n, ok = n*10+int(c-'0'), true
	}
	return n, ok
}

// socketInode reads "socket:[4711]".
func socketInode(link []byte) (uint32, bool) {
	const prefix = "socket:["
	if len(link) < len(prefix)+2 || string(link[:len(prefix)]) != prefix {
		return 0, false
	}
	n, ok := number(link[len(prefix):])
	return uint32(n), ok
}
