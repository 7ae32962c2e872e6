package main

import (
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/cri-pouch/cri-pouch/server"
)

// configFlags are the flags that override the configuration.
type configFlags struct {
	file string
	cmd  *cobra.Command
}

// add gives cmd --config and a flag for each key that has one.
func (f *configFlags) add(cmd *cobra.Command) {
	f.cmd = cmd
	cmd.Flags().StringVar(&f.file, "config", "", "configuration `file`, with config.d beside it (default "+server.DefaultConfigFile+", if it is there)")
	for _, k := range server.Keys() {
		switch {
		case k.Flag == "" || k.Flag == "socket": // the root command has --socket
		case k.Path == "network.cni_bin_dirs":
			cmd.Flags().StringSlice(k.Flag, nil, k.Doc)
		default:
			cmd.Flags().String(k.Flag, "", k.Doc)
		}
	}
}

// load reads the configuration with the flags that were given.
func (f *configFlags) load() (server.Config, error) {
	var overrides []server.Override
	for _, k := range server.Keys() {
		if k.Flag == "" || !f.cmd.Flags().Changed(k.Flag) {
			continue
		}
		o := server.Override{Path: k.Path, Flag: k.Flag}
		if list, err := f.cmd.Flags().GetStringSlice(k.Flag); err == nil {
			o.Values = list
		} else {
			o.Values = []string{f.cmd.Flag(k.Flag).Value.String()}
		}
		overrides = append(overrides, o)
	}
	return server.Load(f.file, overrides...)
}

func (a *app) serveCommand() *cobra.Command {
	var flags configFlags
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the daemon",
		Long: "Run the daemon until SIGTERM or SIGINT. Pods go on when it ends, and are taken over by the next one.\n" +
			"SIGHUP reads log.level and log.format again.",
		Args: exactly(0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			config, err := flags.load()
			if err != nil {
				return err
			}
			hup := make(chan os.Signal, 1)
			signal.Notify(hup, syscall.SIGHUP)
			defer signal.Stop(hup)
			return server.Serve(cmd.Context(), server.Options{
				Config: config, Version: version, Log: server.NewLogger(config.Log, a.err), Reload: hup, Load: flags.load,
			})
		},
	}
	flags.add(cmd)
	return cmd
}

func (a *app) configCommand() *cobra.Command {
	var flags configFlags
	check := &cobra.Command{
		Use:   "check",
		Short: "Read the configuration as serve would, and print what is in force",
		Args:  exactly(0, "no arguments"),
		RunE: func(*cobra.Command, []string) error {
			config, err := flags.load()
			if err != nil {
				return err
			}
			return config.WriteTOML(a.out)
		},
	}
	flags.add(check)
	return group("config", "Print and check the daemon's configuration", check, &cobra.Command{
		Use:   "default",
		Short: "Print the default configuration with every key explained",
		Args:  exactly(0, "no arguments"),
		RunE:  func(*cobra.Command, []string) error { return server.Default().WriteTOML(a.out) },
	})
}
