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
	_ = v.log.Read(context.Background(), journal.Query{Last: 30, Since: v.began}, func(e journal.Entry) error {
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
	return explainPort(lines, v.m.Unit.Command, first)
}

var (
	denied   = regexp.MustCompile(`(?i)permission denied|operation not permitted|\bEACCES\b|\bEPERM\b`)
	binding  = regexp.MustCompile(`(?i)bind|listen|socket|port\b`)
	portText = regexp.MustCompile(`(?i)(?:port[ =:]+|[\d.\]*:]:)(\d{1,5})\b`)
)

// nearby is how many lines before a refusal may tell what was refused.
const nearby = 4

// explainPort finds a refused bind to a port below first in what a service
// wrote. Programs tell it in many ways; where none names the port, words of
// the command line may.
func explainPort(lines, argv []string, first int) string {
	for i := len(lines) - 1; i >= 0; i-- {
		if !denied.MatchString(lines[i]) {
			continue
		}
		near := strings.Join(lines[max(0, i-nearby):i+1], "\n")
		if !binding.MatchString(near) {
			continue
		}
		port := 0
		for _, m := range portText.FindAllStringSubmatch(near, -1) {
			if n, err := strconv.Atoi(m[1]); err == nil && n > 0 && n < first {
				port = n
			}
		}
		for _, w := range argv {
			if n, err := strconv.Atoi(w[strings.LastIndexAny(w, ":=")+1:]); port == 0 && err == nil && n > 0 && n < first {
				port = n
			}
		}
		if port == 0 {
			continue
		}
		return fmt.Sprintf("port %d is for the host's root, as all below %d are: give the service a port from %d on, or have the host's root type  sysctl -w net.ipv4.ip_unprivileged_port_start=%d",
			port, first, first, port)
	}
	return ""
}
