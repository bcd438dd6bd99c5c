package service

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// ErrCycle says that units wait for each other.
var ErrCycle = errors.New("circular dependency")

// Plan is what a start of units needs, in an order in which each unit comes
// after those that it waits for.
type Plan struct {
	Order []string
	// Waits has for each unit those of the plan that have to be up, or have
	// failed, before it starts.
	Waits map[string][]string
	// Needs has for each unit those that it requires.
	Needs map[string][]string
}

// NewPlan plans the start of roots with all that they require and want. A
// required unit that does not exist is an error, a wanted one is left out.
func NewPlan(units map[string]Unit, roots ...string) (Plan, error) {
	p := Plan{Waits: map[string][]string{}, Needs: map[string][]string{}}
	in := map[string]bool{}
	var add func(name, by string) error
	add = func(name, by string) error {
		if in[name] {
			return nil
		}
		u, ok := units[name]
		if !ok {
			if by == "" {
				return fmt.Errorf("no service %q", name)
			}
			return fmt.Errorf("service %s requires %q, which does not exist", by, name)
		}
		in[name] = true
		p.Needs[name] = u.Requires
		for _, r := range u.Requires {
			if err := add(r, name); err != nil {
				return err
			}
		}
		for _, w := range u.Wants {
			if _, ok := units[w]; !ok {
				continue
			}
			if err := add(w, name); err != nil {
				return err
			}
		}
		return nil
	}
	for _, r := range roots {
		if err := add(r, ""); err != nil {
			return Plan{}, err
		}
	}
	p.Waits = waits(units, in)
	order, err := sortUnits(p.Waits, in)
	p.Order = order
	return p, err
}

// waits says for each unit of in which others of in come before it. A required
// unit comes before too, unless it is said to come after.
func waits(units map[string]Unit, in map[string]bool) map[string][]string {
	w := map[string][]string{}
	put := func(first, then string) {
		if in[first] && in[then] && !slices.Contains(w[then], first) {
			w[then] = append(w[then], first)
		}
	}
	for name := range in {
		u := units[name]
		for _, a := range u.After {
			put(a, name)
		}
		for _, b := range u.StartBefore {
			put(name, b)
		}
		for _, r := range u.Requires {
			if !slices.Contains(u.StartBefore, r) && !slices.Contains(units[r].After, name) {
				put(r, name)
			}
		}
	}
	for _, list := range w {
		slices.Sort(list)
	}
	return w
}

// sortUnits orders in so that each comes after its waits; units that do not
// depend on each other come by name.
func sortUnits(waits map[string][]string, in map[string]bool) ([]string, error) {
	const (
		visiting = 1
		done     = 2
	)
	state := map[string]int{}
	var order, path []string
	var visit func(name string) error
	visit = func(name string) error {
		switch state[name] {
		case done:
			return nil
		case visiting:
			cycle := append(slices.Clone(path[slices.Index(path, name):]), name)
			return fmt.Errorf("%w: %s", ErrCycle, strings.Join(cycle, " waits for "))
		}
		state[name] = visiting
		path = append(path, name)
		for _, w := range waits[name] {
			if err := visit(w); err != nil {
				return err
			}
		}
		path = path[:len(path)-1]
		state[name] = done
		order = append(order, name)
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(in)) {
		if err := visit(name); err != nil {
			return nil, err
		}
	}
	return order, nil
}

// Dependents are the units that require name, directly or through others, in
// an order in which each comes before those that it requires.
func Dependents(units map[string]Unit, name string) []string {
	var out []string
	seen := map[string]bool{name: true}
	var visit func(string)
	visit = func(n string) {
		for _, other := range slices.Sorted(maps.Keys(units)) {
			if !seen[other] && slices.Contains(units[other].Requires, n) {
				seen[other] = true
				visit(other)
				out = append(out, other)
			}
		}
	}
	visit(name)
	return out
}
