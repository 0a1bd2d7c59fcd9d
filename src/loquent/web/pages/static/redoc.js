// Draws the API's document with Redoc. Its search would start a worker from a blob: off, so that the policy stays strict.
window.Redoc.init(
  "/api/v1/openapi.json",
  {
    disableSearch: true,
    theme: { typography: { fontFamily: "system-ui, sans-serif", headings: { fontFamily: "system-ui, sans-serif" } } },
  },
  document.getElementById("docs"),
);
