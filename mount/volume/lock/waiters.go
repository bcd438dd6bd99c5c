package lock

import "sync"

// Waiters knows which owner waits for which, over all tables of a file system,
// as the kernel does to answer EDEADLK. The zero Waiters is ready.
type Waiters struct {
	mu sync.Mutex // taken with a Table's mu held, never before one
	// waits has, by owner, what each of its waits waits for: the threads of a
	// process are one owner.
	waits map[uint64]map[*wait]uint64
}

// wait records that w waits for a lock of owner; false, and nothing recorded,
// where that owner in turn waits for w's.
func (g *Waiters) wait(w *wait, owner uint64) bool {
	if g == nil {
		return true
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.reaches(owner, w.owner, map[uint64]bool{}) {
		return false
	}
	if g.waits == nil {
		g.waits = map[uint64]map[*wait]uint64{}
	}
	if g.waits[w.owner] == nil {
		g.waits[w.owner] = map[*wait]uint64{}
	}
	g.waits[w.owner][w] = owner
	return true
}

// end forgets w.
func (g *Waiters) end(w *wait) {
	if g == nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.waits[w.owner], w)
	if len(g.waits[w.owner]) == 0 {
		delete(g.waits, w.owner)
	}
}

func (g *Waiters) reaches(from, to uint64, seen map[uint64]bool) bool {
	if from == to {
		return true
	}
	if seen[from] {
		return false
	}
	seen[from] = true
	for _, next := range g.waits[from] {
		if g.reaches(next, to, seen) {
			return true
		}
	}
	return false
}
