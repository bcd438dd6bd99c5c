package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
)

// Counter is one of the kernel's, as netstat -s and nstat(8) show them, of the
// caller's network namespace. Some are gauges or settings.
type Counter struct {
	Name  string `json:"name"` // TcpActiveOpens
	Value int64  `json:"value"`
}

// Counters reads them all, in the kernel's order.
func Counters() ([]Counter, error) {
	var all []Counter
	for _, f := range []struct {
		path  string
		parse func(string) ([]Counter, error)
	}{{"/proc/net/snmp", parseCounterPairs}, {"/proc/net/netstat", parseCounterPairs}, {"/proc/net/snmp6", parseCounterLines}} {
		b, err := os.ReadFile(f.path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // a kernel without the protocol
		}
		var some []Counter
		if err == nil {
			some, err = f.parse(string(b))
		}
		if err != nil {
			return nil, fmt.Errorf("cannot read counters: %s: %w", f.path, err)
		}
		all = append(all, some...)
	}
	return all, nil
}

// parseCounterPairs reads lines "Tcp: names…", each followed by "Tcp: values…".
func parseCounterPairs(text string) ([]Counter, error) {
	var all []Counter
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	for i := 0; i+1 < len(lines); i += 2 {
		names, values := strings.Fields(lines[i]), strings.Fields(lines[i+1])
		if len(names) == 0 || len(names) != len(values) || names[0] != values[0] {
			return nil, fmt.Errorf("line %d: %w", i+1, errMalformed)
		}
		prefix := strings.TrimSuffix(names[0], ":")
		for j := 1; j < len(names); j++ {
			v, err := counterValue(values[j])
			if err != nil {
				return nil, fmt.Errorf("line %d: %w", i+2, err)
			}
			all = append(all, Counter{prefix + names[j], v})
		}
	}
	return all, nil
}

// parseCounterLines reads lines "Ip6InReceives 12".
func parseCounterLines(text string) ([]Counter, error) {
	var all []Counter
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) != 2 {
			return nil, fmt.Errorf("%q: %w", line, errMalformed)
		}
		v, err := counterValue(f[1])
		if err != nil {
			return nil, err
		}
		all = append(all, Counter{f[0], v})
	}
	return all, nil
}

// counterValue is a number; the kernel's unsigned ones wrap here where nobody counts.
func counterValue(text string) (int64, error) {
	if u, err := strconv.ParseUint(text, 10, 64); err == nil {
		return int64(u), nil
	}
	return strconv.ParseInt(text, 10, 64)
}
