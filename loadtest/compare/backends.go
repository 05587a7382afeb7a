package compare

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	"tickgate/loadtest/peer"
)

// wsPath is the path that gateways send to the WebSocket backend.
const wsPath = "/ws"

// startBackends starts what is behind the gateways, the same processes for all.
func (c *comparison) startBackends(ctx context.Context) error {
	own, err := exec.LookPath(c.Programs.Tickload)
	if err != nil {
		return fmt.Errorf("find tickload: %w", err)
	}
	c.backend = c.Options.Backend
	if c.backend == AnyBackend {
		c.backend = OwnBackend
		if c.Programs.Installed(peer.Nginx) == nil {
			c.backend = NginxFile
		}
	}
	http := peer.Command{
		Name: "backend", Path: own, Args: []string{"backend", "-listen", c.httpAddr, "-size", strconv.Itoa(fileSize)},
		Addr: c.httpAddr, Log: filepath.Join(c.Dir, "backend.log"),
	}
	if c.backend == NginxFile {
		if http, err = c.nginxBackend(http); err != nil {
			return err
		}
	}
	ws := peer.Command{
		Name: "ws-backend", Path: own, Args: []string{"ws-backend", "-listen", c.wsAddr},
		Addr: c.wsAddr, Log: filepath.Join(c.Dir, "ws-backend.log"),
	}
	for _, command := range []peer.Command{http, ws} {
		p, err := peer.Launch(ctx, command)
		if err != nil {
			return err
		}
		c.backends = append(c.backends, p)
	}
	return nil
}

// nginxBackend makes a command serve a file by nginx, from its cache of open files.
func (c *comparison) nginxBackend(command peer.Command) (peer.Command, error) {
	path, err := c.Programs.Path(peer.Nginx)
	if err != nil {
		return command, err
	}
	dir := filepath.Join(c.Dir, "backend")
	www := filepath.Join(dir, "www")
	if err := os.MkdirAll(www, 0o755); err != nil {
		return command, fmt.Errorf("make folder of the backend: %w", err)
	}
	conf := peer.NginxHead(dir, 1, c.MaxFDs) + fmt.Sprintf(`	sendfile on;
	tcp_nopush on;
	open_file_cache max=10 inactive=1h;
	open_file_cache_valid 1h;
	default_type text/plain;
	server { listen %s backlog=4096; root %s; }
}
`, c.httpAddr, www)
	file := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(filepath.Join(www, filePath), bytes.Repeat([]byte("x"), fileSize), 0o644); err != nil {
		return command, fmt.Errorf("write file of the backend: %w", err)
	}
	if err := os.WriteFile(file, []byte(conf), 0o644); err != nil {
		return command, fmt.Errorf("write configuration of the backend: %w", err)
	}
	command.Path, command.Args = path, []string{"-e", "stderr", "-p", dir, "-c", file}
	return command, nil
}

// stopBackends stops what startBackends started.
func (c *comparison) stopBackends() {
	for _, p := range c.backends {
		if err := p.Stop(); err != nil {
			c.note("%v", err)
		}
	}
	c.backends = nil
}
