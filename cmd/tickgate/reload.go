package main

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// reload asks a running gateway, through its admin endpoint, to read its
// configuration again.
func reload(args []string, stdout, stderr io.Writer) error {
	fs := newFlags("reload", "Usage: tickgate reload [--admin ADDRESS] [--token TOKEN]\n\nMakes a running gateway read its configuration again. If it refuses, it says why and goes on with the old one.",
		"  tickgate reload\n  tickgate reload --admin 127.0.0.1:9180\n", stderr)
	addr := fs.String("admin", "127.0.0.1:9180", "`ADDRESS` of the admin endpoint")
	token := fs.String("token", "", "admin `TOKEN`, if one is configured")
	if err := parse(fs, args); err != nil {
		return err
	}
	req, err := http.NewRequest(http.MethodPost, "http://"+*addr+"/api/v1/reload", nil)
	if err != nil {
		return err
	}
	if *token != "" {
		req.Header.Set("Authorization", "Bearer "+*token)
	}
	client := &http.Client{Timeout: 30 * time.Second}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("reload: %w (is the gateway running, and its admin endpoint at %s?)", err, *addr)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("reload refused (%s): %s", resp.Status, strings.TrimSpace(string(body)))
	}
	fmt.Fprintln(stdout, "reloaded")
	return nil
}
