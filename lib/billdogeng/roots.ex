defmodule BilldogEng.Roots do
  @moduledoc false
  # Which authorities TLS trusts where no `:cacertfile` is given: those that `SSL_CERT_FILE` and `SSL_CERT_DIR`
  # name, else the system's, else those of CAStore, if the app has it.

  alias BilldogEng.{Native, Warning}

  @doc false
  # The file for the native side, nil where the system's will do.
  def cacertfile(host) do
    if https?(host) and Native.load_error() == nil and not Native.has_roots(), do: castore()
  end

  defp https?(host), do: is_binary(host) and host |> String.downcase() |> String.starts_with?("https:")

  # Said at the start: at the first flush nobody looks any more.
  defp castore do
    if Code.ensure_loaded?(CAStore) do
      apply(CAStore, :file_path, [])
    else
      Warning.once(
        :no_roots,
        "this system knows no certificate authorities, so no https ingest can be trusted: " <>
          "apt-get install ca-certificates, or give :cacertfile, or set SSL_CERT_FILE"
      )

      nil
    end
  end
end
