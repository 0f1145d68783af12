import { defineConfig } from "vite";

// The page runs from the binary: no absolute base, no inlined assets (the
// content policy forbids inline scripts and styles), no source maps.
export default defineConfig({
  base: "./",
  build: {
    target: "es2022",
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    reportCompressedSize: true,
    emptyOutDir: true,
  },
  server: {
    host: "127.0.0.1",
    proxy: { "/api": process.env.NEAP_API ?? "http://127.0.0.1:8080" },
  },
});
