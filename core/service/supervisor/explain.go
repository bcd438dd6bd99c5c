package supervisor

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"

	"github.com/lxbridge/lx/core/service"
	"github.com/lxbridge/lx/core/service/journal"
)

// explain is what is known of a failure's cause beyond what the machine says.
func (v *svc) explain() string {
	if v.m.Result == service.Success {
		return ""
	}
	lines := strings.Split(v.m.Why, "\n")
	// A log that cannot be read explains nothing.
	_ = v.log.Read(context.Background(), journal.Query{Last: 30, Since: v.m.Since.Add(-maxSleep)}, func(e journal.Entry) error {
		lines = append(lines, e.Text)
		return nil
	})
	b, err := os.ReadFile("/proc/sys/net/ipv4/ip_unprivileged_port_start")
	if err != nil {
		return ""
	}
	first, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return ""
	}
	return explainPort(lines, first)
}

var (
	denied   = regexp.MustCompile(`(?i)permission denied|operation not permitted|\bEACCES\b|\bEPERM\b|could not bind|cannot assign`)
	portText = regexp.MustCompile(`(?i)(?:port[ =:]+|[\d.\]*:]:)(\d{1,5})\b`)
)

// explainPort finds a refused bind to a port below first in what a service wrote.
func explainPort(lines []string, first int) string {
	for i := len(lines) - 1; i >= 0; i-- {
		l := lines[i]
		if !denied.MatchString(l) || !strings.Contains(strings.ToLower(l), "bind") && !strings.Contains(strings.ToLower(l), "listen") &&
			!strings.Contains(strings.ToLower(l), "socket") && !strings.Contains(strings.ToLower(l), "port") {
			continue
		}
		for _, m := range portText.FindAllStringSubmatch(l, -1) {
			if port, err := strconv.Atoi(m[1]); err == nil && port > 0 && port < first {
				return fmt.Sprintf("port %d is the host's root's (ports below %d are, on the network that is shared with the host): give the service a port from %d on, or have the host's root type  sysctl -w net.ipv4.ip_unprivileged_port_start=%d",
					port, first, first, port)
			}
		}
	}
	return ""
}
